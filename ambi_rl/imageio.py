"""Teaches imageio the file format: after `import ambi_rl.imageio`, imread, imwrite and imopen know .ambi.

The work is done by imageio's own Pillow plugin through `ambi_rl.pillow`. What is registered here is the
file name's ending: without it imageio tries all of its plugins, and does not take `extension=".ambi"`.
"""

from __future__ import annotations

from imageio.config import known_extensions
from imageio.config.extensions import FileExtension

from ambi_rl.pillow import EXTENSION

known_extensions[EXTENSION] = [
    FileExtension(name="ambi-rl image", extension=EXTENSION, priority=["pillow"])
]
