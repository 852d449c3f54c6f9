"""The painted boxes that loaders and their crops are tested on."""

import pytest
from tests.data.loading.made_packs import make_objects, make_pack

from posedistill.data.packs.pack import Pack
from posedistill.geometry.objects import ObjectTable


@pytest.fixture(scope="module")
def objects() -> ObjectTable:
    return make_objects()


@pytest.fixture(scope="module")
def pack(objects: ObjectTable) -> Pack:
    return make_pack(objects, 0)
