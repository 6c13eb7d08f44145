"""A PACS on this computer and MONAI Label beside it, with nothing open to the network: ``make label-pacs``."""
