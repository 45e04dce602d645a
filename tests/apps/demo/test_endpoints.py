"""Requests that no page sends: each gets an answer in one line, and the demo goes on."""

from __future__ import annotations

import json
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from apps.evaluate.protocols.emblem import emblem
from apps.evaluate.protocols.prompts import prompts
from apps.evaluate.result import Result
from apps.evaluate.settings import EvaluateSettings
from apps.pictures import write_png
from tests.apps.demo.conftest import untidy
from tests.apps.test_pictures import SETTINGS as PICTURE

# Gradio 6 uses pandas in ways that pandas 4 will drop, and leaves event loops open.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pandas.errors.Pandas4Warning",
    "ignore::ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)

RULES = [{"rule": "CFG", "settings": {"scale": 4}}]
GOOD: dict[str, list[Any]] = {
    "generate": ["emblem-unet", "a red star", "", RULES, 1, 1, 0, "the model's own"],
    "compare": [
        *("emblem-unet", "a red star", "", "methods", ["No guidance", "CFG 4"], None, "1, 2"),
        *(1, 0, 1, RULES),
    ],
    "soften": [
        *("emblem-unet", "a red star", ["mid_block.attentions.0.transformer_blocks.0.attn1:0"]),
        *(3, 1, 1, 1, 1, 0),
    ],
    "search": [
        *("emblem-unet", "a red star", "agreement with the prompt (emblem-clip)", 1, 1, 4),
    ],
    "train": [[], "emblem-unet", "textual-inversion", "<a>", "star", "a {}", 1, 0.005, 1, "a {}"],
    "try_word": ["emblem-unet", "a red star", 0, 4, 0.75, 0.1],
    "evaluate": ["distribution", [], []],
    "read_settings": [None],
}
WRONG_TEXTS: tuple[Any, ...] = (None, "x" * 3000)
WRONG: tuple[Any, ...] = (None, "/etc/passwd", 10**12, [[1], {}], {"path": 1})


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[Client]:
    """A program that talks to the demo."""
    with untidy():
        client = Client(address, verbose=False)
        yield client
        client.close()


def ask(client: Client, name: str, values: list[Any]) -> str:
    """What comes back: the result as text, or the message of the error."""
    try:
        return str(client.submit(*values, api_name=f"/{name}").result(timeout=60))
    except AppError as error:
        return str(error)


def test_the_endpoints_are_these(client: Client) -> None:
    named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert {name.removeprefix("/") for name in named} == GOOD.keys()


@pytest.mark.parametrize("name", ["generate", "compare"])
def test_a_good_request_is_answered(client: Client, name: str) -> None:
    assert "pictures in" in ask(client, name, GOOD[name])


@pytest.mark.parametrize("name", GOOD)
def test_wrong_values_get_one_line(
    client: Client, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    for place, right in enumerate(GOOD[name]):
        # A textbox makes text of anything, and any text may be a prompt.
        for wrong in WRONG_TEXTS if isinstance(right, str) else WRONG:
            values = [*GOOD[name][:place], wrong, *GOOD[name][place + 1 :]]
            answer = ask(client, name, values)
            assert "Traceback" not in answer, (values, answer)
            assert "root:" not in answer
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("path", ["/etc/passwd", str(Path(__file__).resolve()), "pyproject.toml"])
def test_files_of_the_machine_are_not_served(address: str, path: str) -> None:
    for route in ("gradio_api/file=", "file="):
        answer = httpx.get(f"{address}{route}{path}", follow_redirects=True)
        assert answer.status_code in (403, 404)
    wrapped = {"path": path, "meta": {"_type": "gradio.FileData"}}
    call = httpx.post(f"{address}gradio_api/call/read_settings", json={"data": [wrapped]})
    event = json.loads(call.text).get("event_id")
    if event is not None:
        told = httpx.get(f"{address}gradio_api/call/read_settings/{event}", timeout=60).text
        assert "event: error" in told


def test_uploads_have_a_limit_and_must_be_pictures(
    client: Client, address: str, tmp_path: Path, photo: Path
) -> None:
    large = tmp_path / "large.png"
    large.write_bytes(b"0" * 21_000_000)
    with large.open("rb") as file:
        answer = httpx.post(f"{address}gradio_api/upload", files={"files": file}, timeout=60)
    assert answer.status_code == 413
    wrong = [{"image": handle_file(photo), "caption": None}]
    told = ask(client, "train", [wrong, *GOOD["train"][1:]])
    assert "0000.png" not in told and "photo.png is no picture" in told


def test_visitors_do_not_see_each_others_pictures(client: Client, address: str) -> None:
    ask(client, "generate", GOOD["generate"])
    other = Client(address, verbose=False)
    with pytest.raises(AppError, match="bring 6 to 500 pictures"):
        other.predict("prompts", [], [], api_name="/evaluate")
    with pytest.raises(AppError, match="nothing is learned yet"):
        other.predict(*GOOD["try_word"], api_name="/try_word")
    other.close()


@pytest.mark.parametrize(("protocol", "measure"), [("prompts", prompts), ("emblem", emblem)])
def test_downloaded_pictures_are_measured_by_the_prompts_inside(
    client: Client, tmp_path: Path, protocol: str, measure: Callable[..., Result]
) -> None:
    model, text, negative, rules, steps, _, *rest = GOOD["generate"]
    wanted = [model, text, negative, rules, steps, 6, *rest]
    *_, pack = client.predict(*wanted, api_name="/generate")
    with zipfile.ZipFile(pack["value"]) as archive:
        names = [name for name in archive.namelist() if name.endswith(".png")]
        archive.extractall(tmp_path, names)
    gallery = [{"image": handle_file(tmp_path / name), "caption": None} for name in names]
    job = client.submit(protocol, gallery, [], api_name="/evaluate")
    said, *_, file = job.result(timeout=60)
    assert any(re.search("generated, emblem-.* of 6 pictures", news[0]) for news in job.outputs())
    found = Result.read(Path(file["value"]))
    own = measure(tmp_path, settings=EvaluateSettings(device="cpu", cache=None))
    assert f"{len(own.scores)} scores" in said
    assert found.to_dict()["scores"] == own.to_dict()["scores"]
    assert found.images is not None and set(found.images.texts) == {text}


def uploads(folder: Path, side: int, text: str | None = None) -> list[Any]:
    """A gallery of six grey pictures, made of a text or of nothing."""
    folder.mkdir()
    files = [folder / f"{number}.png" for number in range(6)]
    for grey, file in enumerate(files):
        picture = Image.new("RGB", (side, side), (grey, grey, grey))
        write_png(file, picture, {**PICTURE, "prompt": text} if text else None)
    return [{"image": handle_file(file), "caption": None} for file in files]


def test_warnings_go_to_the_visitor_alone_and_folders_of_the_server_to_nobody(
    client: Client, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sides = [uploads(tmp_path / str(side), side) for side in (64, 32)]
    said, *_, file = client.predict("distribution", *sides, api_name="/evaluate")
    for words in (
        "generated pictures are 64 x 64, real ones 32 x 32: ",
        "6 pictures in &#x27;generated&#x27; are no more than ",
        "6 pictures in &#x27;reference&#x27; are no more than ",
    ):
        assert said.count(f"<p>Warning: {words}") == 1
    found = Result.read(Path(file["value"]))
    assert found.images is not None and found.images.folder == "generated"
    assert tempfile.gettempdir() not in said + Path(file["value"]).read_text()

    long = uploads(tmp_path / "long", 64, "a red star " * 40)
    said, *_ = client.predict("prompts", long, [], api_name="/evaluate")
    assert "Warning: 1 of 1 prompts are longer than emblem-clip reads" in said
    with pytest.raises(AppError, match="6 pictures in &#x27;generated&#x27; have no prompt"):
        client.predict("prompts", sides[0], [], api_name="/evaluate")
    assert [record for record in caplog.records if record.name == "diffusteer"] == []


def test_after_all_that_it_still_draws(client: Client) -> None:
    assert "1 pictures in" in ask(client, "generate", GOOD["generate"])
