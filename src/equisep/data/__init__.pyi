from .dataset import Data as Data, Split as Split, load_data as load_data
from .sources import DataUnavailable as DataUnavailable
