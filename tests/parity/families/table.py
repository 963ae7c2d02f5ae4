"""All families of language models, alone and within vision-language models."""

from tests.parity.families.text_families import TEXT
from tests.parity.families.vision_families import VISION_LANGUAGE

FAMILIES = {**TEXT, **VISION_LANGUAGE}
