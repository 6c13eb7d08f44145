"""Orthanc for tests, in a network of its own: what ``make label-pacs`` starts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from examples.pacs.namespace import Namespace

if TYPE_CHECKING:
    from examples.pacs.orthanc import Orthanc

__all__ = ["namespace", "orthanc"]


@pytest.fixture(scope="session")
def namespace() -> Iterator[Namespace]:
    """A network of its own; ports of it are forwarded to the same ports here, see ``Namespace.forward``."""
    try:
        made = Namespace()
    except RuntimeError as error:
        pytest.skip(f"needs a network namespace: {error}")
    with made:
        yield made


@pytest.fixture(scope="session")
def orthanc(namespace: Namespace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """An archive that starts empty and is shared by the tests of a session."""
    pytest.importorskip("dicomweb_client", reason="needs an environment with MONAI Label: make test-label")
    from examples.pacs.orthanc import Orthanc, missing_for_orthanc

    if missing := missing_for_orthanc():
        pytest.skip(missing)
    with Orthanc(namespace, tmp_path_factory.mktemp("orthanc")) as running:
        yield running
