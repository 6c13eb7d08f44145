"""The datastore of a DICOMweb archive, against archives that behave badly; real ones are in ``test_pacs.py``."""

from __future__ import annotations

import socket

import pytest
import requests

pytest.importorskip("monailabel", reason="needs an environment with MONAI Label: make test-label")

from monailabel.config import settings

from esp_medsam_monai.label.dicom_seg import segment_infos
from esp_medsam_monai.label.dicomweb import PACSDatastore, connect, dicom_codes
from esp_medsam_monai.modalities import shipped_modalities

SLICER = [{"name": "mr_hippocampus_anterior", "idx": 2}, {"name": "Cyst", "idx": 1, "color": [1, 2, 3]}]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Settings of MONAI Label with a cache of this test's own."""
    monkeypatch.setattr(settings, "MONAI_LABEL_DICOMWEB_CACHE_PATH", str(tmp_path))
    return tmp_path


def _json(modality: str, uid: str) -> dict:
    return {"00080060": {"vr": "CS", "Value": [modality]}, "0020000E": {"vr": "UI", "Value": [uid]}}


class _Careless:
    """An archive that answers every query with all it has."""

    base_url = "http://archive/dicom-web"

    def __init__(self) -> None:
        self._session = requests.Session()
        self.asked: list[dict] = []

    def search_for_series(self, search_filters):
        self.asked.append(search_filters)
        return [_json("MR", "1.1"), _json("SEG", "1.2"), _json("CT", "1.3"), _json("DX", "1.4"), _json("MR", "1.1")]


def test_codes_are_those_of_the_modalities_with_weights():
    """ES and XC stand for dermoscopy and colonoscopy, which have no code of their own; CT has no weights."""
    assert dicom_codes(shipped_modalities()) == ["CR", "DX", "US", "OP", "SM", "GM", "MR", "ES", "XC"]
    assert dicom_codes({"mr": ["a"]}) == ["MR"]
    assert dicom_codes({"ct": ["liver"], "mine": ["a"]}) == ["CT", "ES", "XC"]


def test_only_what_was_asked_for_is_listed_and_once(cache):
    datastore = PACSDatastore(_Careless(), shipped_modalities)
    assert sorted(datastore.list_images()) == ["1.1", "1.4"]


@pytest.mark.parametrize(
    ("chosen", "asked"),
    [
        ({"Modality": "US"}, [{"Modality": "US"}]),
        ({"PatientID": "7"}, [{"PatientID": "7", "Modality": "MR"}]),
        ({"Modality": "CT"}, [{"Modality": "MR"}]),
    ],
    ids=["another modality", "another filter", "default of MONAI Label"],
)
def test_the_search_filter_of_the_settings_counts(cache, monkeypatch, chosen, asked):
    monkeypatch.setattr(settings, "MONAI_LABEL_DICOMWEB_SEARCH_FILTER", chosen)
    archive = _Careless()
    PACSDatastore(archive, lambda: {"mr": ["a"]}).list_images()
    assert archive.asked == asked


def test_a_list_is_kept_as_long_as_the_settings_say(cache, monkeypatch):
    for seconds, times in ((3600, 1), (0, 2)):
        monkeypatch.setattr(settings, "MONAI_LABEL_DICOMWEB_CACHE_EXPIRY", seconds)
        archive = _Careless()
        datastore = PACSDatastore(archive, lambda: {"mr": ["a"]})
        assert datastore.list_images() == datastore.list_images() == ["1.1"]
        assert len(archive.asked) == times


def test_an_archive_that_never_answers_is_given_up(cache, monkeypatch):
    monkeypatch.setattr(settings, "MONAI_LABEL_DICOMWEB_PROXY_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connects, since the system takes the call
        datastore = connect(f"http://127.0.0.1:{silent.getsockname()[1]}/dicom-web", shipped_modalities)
        with pytest.raises(requests.Timeout):
            datastore.list_images()


@pytest.mark.parametrize("label_info", [None, [], [{"name": name} for name in ("dermoscopy_lesion", "xray_lung")]])
def test_values_of_the_table_have_its_names(label_info):
    """MONAI Label's converter would call them what the first two entries say."""
    infos = segment_infos([7, 8], label_info, shipped_modalities())
    assert [info["name"] for info in infos] == ["mr_hippocampus_anterior", "mr_hippocampus_posterior"]
    attribute = infos[0]["segmentAttribute"]
    assert (attribute["labelID"], attribute["recommendedDisplayRGBValue"]) == (7, [204, 121, 167])
    # SNOMED CT 5366008: hippocampus; its category 91723000: anatomical structure
    assert attribute["SegmentedPropertyTypeCodeSequence"]["CodeValue"] == "5366008"
    assert attribute["SegmentedPropertyCategoryCodeSequence"]["CodeValue"] == "91723000"


def test_numbers_that_the_client_explains_go_before_the_table():
    cyst, anterior = segment_infos([1, 2], SLICER, shipped_modalities())
    assert (cyst["name"], cyst["color"], "segmentAttribute" in cyst) == ("Cyst", [1, 2, 3], False)
    assert (anterior["idx"], anterior["segmentAttribute"]["SegmentLabel"]) == (2, "mr hippocampus anterior")


def test_values_that_nobody_knows_take_the_clients_names_in_order():
    infos = segment_infos([8, 20, 21], [{"name": "cyst"}, {"name": "mr_hippocampus_posterior"}], shipped_modalities())
    assert [info["name"] for info in infos] == ["mr_hippocampus_posterior", "cyst", "label 21"]
