"""Many files at a time: what is to be coded to where, who does the work, and the record of it."""
