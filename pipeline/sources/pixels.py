"""From the bytes of an image to a row of numbers, or the problem why there is none."""

from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

MAX_PIXELS = 64 * 2**20
MAX_FILE_BYTES = 64 * 2**20


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """How an image becomes numbers: `height` x `width`, as `mode` "L" (grey) or "RGB", float32 from 0 to 1, by channel, row, column."""

    height: int
    width: int
    mode: str

    def read(self, data: bytes) -> NDArray[np.float32] | str:
        """Never raises because of what the bytes are."""
        if len(data) > MAX_FILE_BYTES:
            return f"more than {MAX_FILE_BYTES} bytes; expected an image of at most that"
        try:
            with PIL.Image.open(BytesIO(data)) as image:
                if image.width * image.height > MAX_PIXELS:
                    return f"{image.width} x {image.height} pixels; expected at most {MAX_PIXELS}"
                return self._floats(image)
        except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
            return f"not an image ({str(error)[:120]})"

    def _floats(self, image: Any) -> NDArray[np.float32]:
        small = image.convert(self.mode).resize((self.width, self.height), PIL.Image.Resampling.BILINEAR)
        pixels = np.asarray(small, dtype=np.float32) / np.float32(255)
        return pixels.reshape(-1) if pixels.ndim == 2 else pixels.transpose(2, 0, 1).reshape(-1)
