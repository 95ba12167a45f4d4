from .files import load_config as load_config
from .files import write_config as write_config
from .json_schema import config_schema as config_schema
from .sections import GenerationConfig as GenerationConfig
from .sections import ModelType as ModelType
from .sections import PartsConfig as PartsConfig
from .sections import W2SConfig as W2SConfig
from .sections import build_parts as build_parts
