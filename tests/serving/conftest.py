"""Servers that end with the module that started them."""

from collections.abc import Iterator

import pytest

from tests.serving.servers import Servers


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    started = Servers(tmp_path_factory.mktemp("elsewhere"))
    yield started
    for server in started.running:
        server.stop()
