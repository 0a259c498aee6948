"""A loaded predictor behind HTTP, for programs in other languages and other processes; standard library only."""

from __future__ import annotations

import io
import json
import re
import tempfile
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

from autoseg import __version__
from autoseg.errors import AutosegError
from autoseg.image import read_header, read_image, write_segmentation
from autoseg.pipeline.predictor import Predictor

_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".tif", ".tiff")
_SECONDS = 60  # that a client may leave us waiting


class PredictionServer(ThreadingHTTPServer):
    """Answers requests with segmentations, one at a time; others wait.

    ``GET /health`` tells the version, members, channels and labels. ``POST /segment?name=IMAGE.nii.gz`` takes a file
    with all channels, or a form (``multipart/form-data``) with one file per channel in the plan's order, and answers
    with the segmentation in the same format. ``POST /segment-array?spacing=Z,Y,X`` takes
    and gives NumPy's ``.npy``. What is wrong with a request is answered with 4xx and ``{"error": sentence}``.

    Args:
        predictor: Loaded.
        host: Address to listen on; anything but this machine's own is the caller's decision.
        port: Port; 0 takes a free one.
        max_upload: Bytes that a request may hold.
        max_voxels: Voxels times channels that an image may unpack to.
    """

    daemon_threads = True

    def __init__(
        self,
        predictor: Predictor,
        *,
        host: str = "127.0.0.1",
        port: int = 8008,
        max_upload: int = 1 << 30,
        max_voxels: int = 1 << 29,
    ) -> None:
        super().__init__((host, port), _Request)
        self.predictor = predictor
        self.max_upload = max_upload
        self.max_voxels = max_voxels
        self.busy = threading.Lock()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self.server_address[0]!s}:{self.server_address[1]}"


class _RefusedError(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class _Request(BaseHTTPRequestHandler):
    server: PredictionServer
    server_version = f"autoseg/{__version__}"
    timeout = _SECONDS

    def do_GET(self) -> None:
        """Tell what is loaded."""
        if urlsplit(self.path).path != "/health":
            self._refuse(
                _RefusedError(HTTPStatus.NOT_FOUND, "there is GET /health, POST /segment, POST /segment-array")
            )
            return
        plan = self.server.predictor.plan
        found = {
            "version": __version__,
            "members": [member.describe() for member in self.server.predictor.ensemble.members],
            "channels": list(plan.channels),
            "labels": {target.name: list(target.values) for target in plan.labels.targets},
        }
        self._answer(HTTPStatus.OK, json.dumps(found).encode(), "application/json")

    def do_POST(self) -> None:
        """Segment what was sent."""
        parts = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        work = {"/segment": self._segment_file, "/segment-array": self._segment_array}.get(parts.path)
        if work is None:
            self._refuse(_RefusedError(HTTPStatus.NOT_FOUND, "there is POST /segment and POST /segment-array"))
            return
        try:
            content = work(self._body(), query)
        except _RefusedError as refused:
            self._refuse(refused)
        except AutosegError as error:
            self._refuse(_RefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)))
        except (MemoryError, OSError, RuntimeError) as error:
            self._refuse(_RefusedError(HTTPStatus.INTERNAL_SERVER_ERROR, f"{type(error).__name__}: {error}"))
        else:
            self._answer(HTTPStatus.OK, content, "application/octet-stream")

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise _RefusedError(HTTPStatus.LENGTH_REQUIRED, "say with Content-Length how much follows")
        if int(length) > self.server.max_upload:
            self.close_connection = True
            raise _RefusedError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"{length} bytes; at most {self.server.max_upload} are taken"
            )
        body = self.rfile.read(int(length))
        if len(body) != int(length):
            raise _RefusedError(HTTPStatus.BAD_REQUEST, f"{length} bytes were announced, {len(body)} came")
        return body

    def _segment_file(self, body: bytes, query: dict[str, str]) -> bytes:
        kind = self.headers.get("Content-Type", "")
        is_form = kind.lower().startswith("multipart/form-data")
        files = _form_files(body, kind) if is_form else [(query.get("name", ""), body)]
        # Of a name only the ending is used: it never becomes a path.
        endings = [_ending(name) for name, _ in files]
        with tempfile.TemporaryDirectory() as folder:
            sent, answer = [], Path(folder) / f"segmentation{endings[0]}"
            for number, ((_, content), ending) in enumerate(zip(files, endings, strict=True)):
                sent.append(Path(folder) / f"image_{number:04d}{ending}")
                sent[-1].write_bytes(content)
            headers = [read_header(path) for path in sent]  # a small file may unpack to far more than there is memory
            self._check_size(sum(int(np.prod(h.geometry.shape)) * h.num_channels for h in headers))
            with self.server.busy:
                write_segmentation(answer, self.server.predictor.segment(read_image(sent)))
            return answer.read_bytes()

    def _segment_array(self, body: bytes, query: dict[str, str]) -> bytes:
        numbers = re.fullmatch(r"[0-9.eE+-]+(,[0-9.eE+-]+)*", query.get("spacing", ""))
        try:
            spacing = tuple(float(word) for word in numbers[0].split(",")) if numbers else ()
            array = np.load(io.BytesIO(body), allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise _RefusedError(HTTPStatus.BAD_REQUEST, f"the array or its spacing cannot be read: {error}") from None
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf" or not all(0 < s < 1e6 for s in spacing):
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "send one .npy of numbers and its ?spacing=Z,Y,X in mm")
        self._check_size(array.size)
        if not np.isfinite(array).all():
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "the array holds values that are not finite")
        with self.server.busy:
            found = self.server.predictor.segment(array.astype(np.float32), spacing)
        answer = io.BytesIO()
        np.save(answer, found.array, allow_pickle=False)
        return answer.getvalue()

    def _check_size(self, voxels: int) -> None:
        if voxels > self.server.max_voxels:
            raise _RefusedError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"{voxels} voxels; at most {self.server.max_voxels} are taken"
            )

    def _refuse(self, refused: _RefusedError) -> None:
        self.close_connection = True
        self._answer(refused.status, json.dumps({"error": str(refused)}).encode(), "application/json")

    def _answer(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401 - the base class's signature
        """Say nothing: names of files in requests may be names of patients."""


def _ending(name: str) -> str:
    found = next((ending for ending in _ENDINGS if name.lower().endswith(ending)), None)
    if found is None:
        raise _RefusedError(
            HTTPStatus.BAD_REQUEST, f"name the format: ?name=IMAGE, or a file's name, with one of {', '.join(_ENDINGS)}"
        )
    return found


def _form_files(body: bytes, content_type: str) -> list[tuple[str, bytes]]:
    """Names and contents of the files of a form (RFC 7578), in the order of their names where channels are counted."""
    boundary = re.search(r'boundary="?([^";]+)"?', content_type)
    if boundary is None:
        raise _RefusedError(HTTPStatus.BAD_REQUEST, "a form needs a boundary in its Content-Type")
    files = []
    for part in (b"\r\n" + body).split(b"\r\n--" + boundary[1].encode())[1:-1]:
        head, found, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        name = re.search(r'filename="([^"]*)"', head.decode("utf-8", "replace"))
        if found and name is not None:
            files.append((name[1], content))
    if not files:
        raise _RefusedError(HTTPStatus.BAD_REQUEST, "the form holds no file")
    numbers = [re.search(r"_(\d{4})\.", name) for name, _ in files]
    if all(numbers):
        files.sort(key=lambda file: re.findall(r"_(\d{4})\.", file[0])[-1])
    return files
