from .config import GUIDES as GUIDES
from .config import AnyGuides as AnyGuides
from .config import Guides as Guides
from .config import RemoteGuideConfig as RemoteGuideConfig
from .huggingface import HuggingFaceGuide as HuggingFaceGuide
from .pair import GuidePair as GuidePair
from .remote import RemoteGuide as RemoteGuide
