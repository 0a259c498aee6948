"""A loaded predictor behind HTTP, asked by a client over a real connection on this machine."""

from __future__ import annotations

import http.client
import io
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from autoseg.geometry import Geometry
from autoseg.image import Image, read_segmentation, write_image
from autoseg.pipeline.predictor import Predictor
from autoseg.pipeline.serving import PredictionServer
from autoseg.workspace import Workspace


@pytest.fixture(scope="module")
def predictor(untrained_workspace: Workspace) -> Predictor:
    return Predictor.load(untrained_workspace, device="cpu")


@pytest.fixture(scope="module")
def server(predictor: Predictor) -> Iterator[PredictionServer]:
    with PredictionServer(predictor, port=0, max_upload=100_000, max_voxels=5_000) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def make_image(*, shape: tuple[int, ...] = (9, 11, 13), seed: int = 0) -> Image:
    array = np.random.default_rng(seed).normal(50, 20, (1, *shape)).astype(np.float32)
    return Image(array=array, geometry=Geometry(shape=shape, spacing=(1.0, 1.0, 1.0)))


def ask(
    server: PredictionServer, method: str, path: str, body: bytes | None = None, *, kind: str = "application/binary"
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=30)
    try:
        connection.request(method, path, body, {"Content-Type": kind})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def as_npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_files_and_arrays_give_what_the_predictor_gives(
    server: PredictionServer, predictor: Predictor, tmp_path: Path
) -> None:
    image = make_image()
    expected = predictor.segment(image)
    write_image(tmp_path / "a.nii.gz", image)
    status, content = ask(server, "POST", "/segment?name=a.nii.gz", (tmp_path / "a.nii.gz").read_bytes())
    assert status == 200
    (tmp_path / "answer.nii.gz").write_bytes(content)
    found = read_segmentation(tmp_path / "answer.nii.gz")
    np.testing.assert_array_equal(found.array, expected.array)
    assert image.geometry.differences(found.geometry) == []
    status, content = ask(server, "POST", "/segment-array?spacing=1,1,1", as_npy(image.array))
    assert status == 200
    np.testing.assert_array_equal(np.load(io.BytesIO(content)), expected.array)
    status, content = ask(server, "GET", "/health")
    assert status == 200
    assert json.loads(content)["labels"] == {"liver": [3], "big tumor": [200]}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        ("GET", "/other", None, 404, "there is"),
        ("POST", "/other", b"x", 404, "there is"),
        ("POST", "/segment?name=a.exe", b"x", 400, "name the format"),
        ("POST", "/segment", b"x", 400, "name the format"),
        ("POST", "/segment?name=../../etc/passwd.nii", b"not an image", 422, "cannot be read"),
        ("POST", "/segment?name=a.nii.gz", b"\x1f\x8b broken", 422, ""),
        ("POST", "/segment?name=a.nii.gz", b"0" * 200_000, 413, "at most 100000"),
        ("POST", "/segment-array?spacing=1,1,1", b"rubbish", 400, "cannot be read"),
        ("POST", "/segment-array", as_npy(np.zeros((9, 9, 9))), 422, "spacing"),
        ("POST", "/segment-array?spacing=1,-1,1", as_npy(np.zeros((9, 9, 9))), 400, "spacing"),
        ("POST", "/segment-array?spacing=1,1,1", as_npy(np.full((9, 9, 9), np.nan)), 400, "not finite"),
        ("POST", "/segment-array?spacing=1,1,1", as_npy(np.array(["text"])), 400, "numbers"),
        ("POST", "/segment-array?spacing=1,1,1", as_npy(np.zeros((2, 9, 9, 9))), 422, "channel"),
        ("POST", "/segment-array?spacing=1,1,1", as_npy(np.zeros((30, 30, 30), np.uint8)), 413, "voxels"),
    ],
)
def test_bad_requests_are_answered_and_the_next_one_works(
    server: PredictionServer, method: str, path: str, body: bytes | None, status: int, says: str
) -> None:
    found, content = ask(server, method, path, body)
    assert (found, json.loads(content)["error"].count(says) > 0) == (status, True), content
    assert "/tmp" not in json.loads(content)["error"] or status == 422
    assert ask(server, "GET", "/health")[0] == 200


def test_a_small_file_that_unpacks_to_a_large_image_is_refused(server: PredictionServer, tmp_path: Path) -> None:
    image = make_image(shape=(40, 40, 40))
    write_image(tmp_path / "a.nii.gz", Image(array=np.zeros_like(image.array), geometry=image.geometry))
    content = (tmp_path / "a.nii.gz").read_bytes()
    assert len(content) < 100_000
    status, answer = ask(server, "POST", "/segment?name=a.nii.gz", content)
    assert status == 413, answer


def test_it_listens_on_this_machine_only_unless_told_otherwise(server: PredictionServer) -> None:
    assert server.server_address[0] == "127.0.0.1"


def as_form(files: dict[str, bytes], boundary: str = "a1b2") -> tuple[bytes, str]:
    """A form as curl -F sends it."""
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'.encode()
        + b"Content-Type: application/octet-stream\r\n\r\n"
        + content
        + b"\r\n"
        for name, content in files.items()
    ]
    return b"".join(parts) + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def test_channels_may_be_files_of_their_own(make_workspace: Callable[..., Workspace], tmp_path: Path) -> None:
    predictor = Predictor.load(make_workspace(tmp_path / "two", num_channels=2), device="cpu")
    first, second = make_image(seed=1), make_image(seed=2)
    both = Image(array=np.concatenate([first.array, second.array]), geometry=first.geometry)
    expected = predictor.segment(both).array
    sent = {}
    for name, image in (("c_0001.nii.gz", second), ("c_0000.nii.gz", first)):  # their numbers decide
        write_image(tmp_path / name, image)
        sent[name] = (tmp_path / name).read_bytes()
    with PredictionServer(predictor, port=0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            form, kind = as_form(sent)
            status, content = ask(server, "POST", "/segment", form, kind=kind)
            alone, _ = ask(server, "POST", "/segment", *as_form({"c.nii.gz": sent["c_0000.nii.gz"]})[:1], kind=kind)
            empty, says = ask(server, "POST", "/segment", b"--a1b2--\r\n", kind=kind)
            lost, _ = ask(server, "POST", "/segment", form, kind="multipart/form-data")
        finally:
            server.shutdown()
            thread.join()
    assert (status, alone, empty, lost) == (200, 422, 400, 400), content
    assert b"no file" in says
    (tmp_path / "answer.nii.gz").write_bytes(content)
    np.testing.assert_array_equal(read_segmentation(tmp_path / "answer.nii.gz").array, expected)
