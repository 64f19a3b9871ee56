"""tools/web: what the page says of a line, and the page itself in a browser where there is one."""

import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

from dig_jax.interop import model as models
from dig_jax.pages.read import TextLine
from dig_jax.tools import web

ROOT = pathlib.Path(__file__).parents[2]
BOX = np.array([[10.0, 10], [190, 10], [190, 50], [10, 50]])
CHARACTERS = (("a", 0.99, 0.0, 0.25), ("<", 0.7, 0.25, 0.5), ("b", 0.2, 0.5, 1.0))
LINE = TextLine(BOX, 0, "a<b", 0.8, [], CHARACTERS, np.zeros((40, 180), np.uint8))


def test_each_character_stands_in_its_place_and_says_how_sure_it_is():
    text = web.aligned([LINE]).partition("</style>")[2]
    assert "title='99 %' style='left:0.00%;width:25.00%;'>a<" in text and "&lt;" in text
    certain, doubtful, wrong = (text.index(f"title='{sure} %'") for sure in (99, 70, 20))
    assert web.TINTS[1][1] in text[doubtful:wrong] and web.TINTS[0][1] in text[wrong:]
    assert "background" not in text[certain:doubtful]


def test_lines_are_framed_where_they_stand():
    image = np.full((80, 200), 255, np.uint8)
    picture = web.framed(image, [LINE])
    assert picture.shape == (80, 200, 3)
    marked = (picture != 255).any(axis=2)
    assert marked[30, 8:13].any() and marked[48:53, 100].any() and not marked[20:40, 30:180].any()
    assert max(web.framed(np.zeros((100, 4000), np.uint8), []).shape) == web.SHOWN_PX


@pytest.mark.parametrize("shape", [(5, 20000), (20000, 5)])
def test_a_picture_that_is_no_line_is_shown_with_its_reason(tmp_path, shape):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros(shape, np.uint8))
    picture, text, said = web.answer(str(tmp_path / "a.png"), "fraktur")
    assert "img" in picture and not text and said.endswith("px is too small for a line of text")


def test_readers_ship_and_ones_own_comes_first():
    assert "gen48" not in web.readers(None) and "fraktur" in web.readers(None)
    assert web.readers("runs/mine")[0] == "runs/mine"


def test_a_bad_file_is_one_sentence(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    for file in (None, str(tmp_path / "a.png")):
        picture, text, said = web.answer(file, "fraktur")
        assert picture == "" and text == "" and said and "Traceback" not in said


@pytest.mark.slow
@pytest.mark.parametrize(
    "program, package, extra, flags",
    [
        ("web", "gradio", "demo", []),
        ("export_records", "lmdb", "lmdb", ["--records=a", "--output=b"]),
    ],
)
def test_a_missing_extra_is_one_sentence_with_the_command(program, package, extra, flags, python):
    run = (
        f"import runpy, sys; sys.modules[{package!r}] = None; sys.argv = [{program!r}, *{flags}]; "
    )
    run += f"runpy.run_module('dig_jax.tools.{program}', run_name='__main__')"
    done = subprocess.run([python, "-c", run], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert f"pip install 'dig_jax[{extra}]'" in done.stderr and len(done.stderr.splitlines()) == 1


# ---- the page in a browser


class Chromium:
    """A headless browser, spoken to through a pipe (Chrome DevTools Protocol)."""

    def __init__(self, program, folder):
        down, self.out = os.pipe()
        self.into, up = os.pipe()

        def pipes():
            a, b = os.dup(down), os.dup(up)  # 3 and 4 may be among them
            os.dup2(a, 3), os.dup2(b, 4)

        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        self.process = subprocess.Popen(
            [program, *flags, f"--user-data-dir={folder}", "about:blank"],
            pass_fds=(3, 4) if {down, up} == {3, 4} else (3, 4, down, up),
            preexec_fn=pipes,
            stderr=subprocess.DEVNULL,
        )
        self.rest, self.number, self.session = b"", 0, None
        targets = self.ask("Target.getTargets")["targetInfos"]
        page = next(t["targetId"] for t in targets if t["type"] == "page")
        self.session = self.ask("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]

    def ask(self, method, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.rest:
                self.rest += os.read(self.into, 1 << 16)
            text, _, self.rest = self.rest.partition(b"\0")
            answer = json.loads(text)
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]

    def value(self, expression):
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        return found["result"].get("value")

    def until(self, expression, seconds=180):
        end = time.monotonic() + seconds
        while not (found := self.value(expression)):
            assert time.monotonic() < end, f"never true: {expression}"
            time.sleep(0.3)
        return found


@pytest.mark.slow
def test_a_picture_that_is_uploaded_is_read(tmp_path):
    """With gradio and chromium; SHOW=DIR keeps pictures of the page at 400 and 1,280 px."""
    if importlib.util.find_spec("gradio") is None:
        pytest.skip("gradio is not installed: pip install 'dig_jax[demo]'")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if not program:
        pytest.skip("no chromium on this machine")
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1"}
    server = subprocess.Popen(
        [sys.executable, "-m", "dig_jax.tools.web", "--port=0"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    browser = None
    try:
        address = next(line for line in server.stdout if line.startswith("open ")).split()[1]
        browser = Chromium(program, tmp_path / "profile")
        browser.ask("Page.enable")
        browser.ask("Page.navigate", url=address)
        browser.until("!!document.querySelector('#picture input[type=file]')")
        line = models.BUNDLED / "fraktur" / "lines" / "1827.webp"
        picture = cv2.imread(str(line))
        cv2.imwrite(str(tmp_path / "line.png"), picture)
        root = browser.ask("DOM.getDocument", depth=0)["root"]["nodeId"]
        node = browser.ask("DOM.querySelector", nodeId=root, selector="#picture input[type=file]")
        browser.ask("DOM.setFileInputFiles", files=[str(tmp_path / "line.png")], **node)
        text = browser.until("document.querySelector('#text textarea').value")
        assert "bedauernswerthen Frau" in text
        assert browser.value("document.querySelectorAll('#characters span').length") > 40
        browser.until("!!document.querySelector('#lines img')")
        if where := os.environ.get("SHOW"):
            show(browser, pathlib.Path(where))
    finally:
        server.terminate()
        server.wait()
        if browser:
            browser.process.terminate()
            browser.process.wait()


def show(browser, folder):
    """Writes pictures of the page, light and dark."""
    import base64

    for theme in ("light", "dark"):
        media = [{"name": "prefers-color-scheme", "value": theme}]
        browser.ask("Emulation.setEmulatedMedia", features=media)
        browser.value(f"document.body.classList.toggle('dark', {str(theme == 'dark').lower()})")
        for wide in (400, 1280):
            size = {"width": wide, "height": 1100, "deviceScaleFactor": 1, "mobile": False}
            browser.ask("Emulation.setDeviceMetricsOverride", **size)
            time.sleep(1)
            shot = browser.ask("Page.captureScreenshot")["data"]
            (folder / f"web-{theme}-{wide}.png").write_bytes(base64.b64decode(shot))
