"""The catalog of this process, read at first use."""

from functools import cache

from config.catalog import Catalog, load_catalog
from config.settings import settings


@cache
def catalog() -> Catalog:
    """Load the catalog that the settings name, once.

    Raises:
        CatalogError: it has faults; all of them are in the error.
    """
    return load_catalog(settings().config)
