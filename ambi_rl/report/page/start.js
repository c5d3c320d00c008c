// Once the plotting library is there.
"use strict";
curves = new Curves();
