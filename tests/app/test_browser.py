"The site and the notebooks in a real browser. Skipped, with the reason, where there is no chromium."
import asyncio
import functools
import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on the path")


VIEW = {"width": 1280, "height": 900}
SILENT = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=SILENT)
        yield browser
        browser.close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass


@pytest.fixture(scope="module")
def address(site):
    "The built site on a local server."
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def watched(page):
    "A page that records requests to elsewhere, failed loads and script errors in `page.faults`."
    page.faults = faults = []
    page.on("request", lambda r: None if re.match(r"(http://127\.0\.0\.1[:/]|data:|blob:|file:)", r.url) else faults.append(f"asked for {r.url}"))
    page.on("response", lambda r: faults.append(f"{r.status} {r.url}") if r.status >= 400 and not r.url.endswith("favicon.ico") else None)
    page.on("pageerror", lambda e: faults.append(f"script error {e}"))
    return page


@pytest.fixture
def tab(browser):
    context = browser.new_context(viewport=VIEW)
    yield watched(context.new_page())
    context.close()


def html_pages(site: Path) -> list:
    return [p.relative_to(site).as_posix() for p in sorted(site.rglob("*.html"))]


async def visit(names: list, address: str, tabs: int = 6) -> list:
    "What is wrong with each of many pages; several are open at once, since each is watched for half a quiet second."
    from playwright.async_api import async_playwright
    left, found = list(names), []
    async def go_on(page):
        while left:
            name = left.pop()
            await page.goto(f"{address}/{name}", wait_until="networkidle")
            if await page.locator(".math.notranslate").count():
                await page.wait_for_selector("mjx-container svg", timeout=60_000)
                if await page.locator("[data-mjx-error]").count():
                    found.append((name, await page.locator("[data-mjx-error]").first.get_attribute("data-mjx-error")))
            if await page.locator("h1").count() < 1 and name != "search.html": found.append((name, "no title"))
            found.extend((name, fault) for fault in page.faults)
            page.faults.clear()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=SILENT)
        context = await browser.new_context(viewport=VIEW)
        await asyncio.gather(*[go_on(watched(await context.new_page())) for _ in range(tabs)])
        await browser.close()
    return found


def visited(names: list, address: str) -> list:
    with ThreadPoolExecutor(1) as aside: return aside.submit(lambda: asyncio.run(visit(names, address))).result()


def test_every_page_of_the_site_stays_at_home(address, site): assert visited(html_pages(site), address) == []


def test_pages_that_do_not_stay_at_home_are_seen(tmp_path):
    pages = {"away.html": '<h1>a</h1><script src="https://example.org/x.js"></script>', "lost.html": '<h1>a</h1><img src="lost.png">',
             "wrong.html": "<h1>a</h1><script>nowhere()</script>", "bare.html": "<p>a</p>", "fine.html": "<h1>a</h1>"}
    for name, body in pages.items(): (tmp_path/name).write_text(f"<html><body>{body}</body></html>", encoding="utf-8")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    found = dict(visited(list(pages), f"http://127.0.0.1:{server.server_port}"))
    server.shutdown()
    assert "example.org" in found["away.html"] and "404" in found["lost.html"] and "nowhere" in found["wrong.html"] and found["bare.html"] == "no title" and "fine.html" not in found


def test_some_page_sets_a_formula(tab, address, site):
    name = next(n for n in html_pages(site) if "math notranslate" in (site/n).read_text(encoding="utf-8"))
    tab.goto(f"{address}/{name}")
    tab.wait_for_selector("mjx-container svg path", state="attached", timeout=20_000)
    assert tab.locator("mjx-container svg").first.bounding_box()["width"] > 3


def test_site_works_from_the_file_system(tab, site):
    tab.goto(f"{(site/'index.html').as_uri()}")
    assert "tokenstudy" in tab.title() and tab.locator(".sidebar-tree a").count() >= 3
    assert tab.faults == []


@pytest.mark.parametrize("place", ["server", "file"])
def test_search_finds(tab, address, site, place):
    start = address if place == "server" else site.as_uri()
    tab.goto(f"{start}/search.html?q=atomic_write")
    tab.wait_for_selector("#search-results ul.search li a", timeout=20_000)
    assert any("core" in link.get_attribute("href") for link in tab.locator("#search-results li a").all())
    # from the file system a browser refuses the excerpts below the hits, not the hits
    assert [fault for fault in tab.faults if place == "server" or "Failed to fetch" not in fault] == []


# ---- JupyterLab

def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextmanager
def jupyterlab(project: Path, folder: Path):
    "A JupyterLab on the notebooks of `project`, its settings and logs in `folder`; yields its address."
    port, token = free_port(), "tests"
    own = {name: str(folder/name.lower()) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser", "--LabApp.news_url=None", f"--ServerApp.port={port}",
               "--ServerApp.ip=127.0.0.1", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={project/'nbs'}"]
    log = folder/"jupyterlab.log"
    with log.open("w") as output:
        server = subprocess.Popen(command, cwd=project/"nbs", env={**os.environ, **own, "PYTHONPATH": str(project), "MPLBACKEND": ""}, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token={token}", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < deadline, f"JupyterLab did not start:\n{log.read_text()[-3000:]}"
                time.sleep(.3)
        yield f"http://127.0.0.1:{port}", token
    finally:
        server.terminate()
        try: server.wait(30)
        except subprocess.TimeoutExpired: server.kill()


@pytest.fixture(scope="module")
def lab(scratch, tmp_path_factory):
    with jupyterlab(scratch, tmp_path_factory.mktemp("jupyter")) as running: yield running


def run_all(tab, lab, notebook: str, seconds: float = 240):
    "Open a notebook (path relative to `nbs/`) in JupyterLab, run all its cells, wait until each has its number; fails on an error output."
    base, token = lab
    tab.goto(f"{base}/lab/tree/{notebook}?token={token}&reset")
    tab.wait_for_function("() => window.jupyterapp && window.jupyterapp.shell.currentWidget && window.jupyterapp.shell.currentWidget.content.widgets", timeout=60_000)
    tab.wait_for_function("() => window.jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.status === 'idle'", timeout=90_000)
    tab.evaluate("() => window.jupyterapp.commands.execute('runmenu:run-all')")
    cells = """() => window.jupyterapp.shell.currentWidget.content.widgets.filter(c => c.model.type === 'code' && c.model.sharedModel.getSource().trim())
        .map(c => ({source: c.model.sharedModel.getSource(), count: c.model.executionCount, outputs: c.model.outputs.toJSON()}))"""
    deadline, found = time.monotonic() + seconds, []
    while time.monotonic() < deadline:
        found = tab.evaluate(cells)
        errors = [f"{o['ename']}: {o['evalue']}\nin\n{cell['source']}" for cell in found for o in cell["outputs"] if o["output_type"] == "error"]
        assert errors == [], errors[0]
        idle = tab.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.status === 'idle'")
        if found and idle and all(cell["count"] for cell in found): return found
        time.sleep(.5)
    waiting = [cell["source"][:200] for cell in found if not cell["count"]]
    pytest.fail(f"{notebook}: {len(waiting)} cells had not run after {seconds} s, the first:\n{waiting[0] if waiting else '(the kernel is busy)'}")


def close(tab):
    "Shut the kernel of the open notebook down and close it, so that memory is free for the next."
    tab.evaluate("async () => { const w = window.jupyterapp.shell.currentWidget; await w.sessionContext.shutdown(); }")


@pytest.mark.parametrize("notebook, image, text", [("core/12_show.ipynb", True, "")])
def test_notebook_runs_in_jupyterlab(tab, lab, notebook, image, text):
    cells = run_all(tab, lab, notebook)
    kinds = {kind for cell in cells for output in cell["outputs"] for kind in output.get("data", {})}
    assert "text/html" in kinds and ("image/png" in kinds or not image)
    assert not [fault for fault in tab.faults if fault.startswith("asked for")]
    close(tab)


def test_panel_of_three_tokens_moves(tab, lab, tmp_path):
    "The widget of 04_optimal: dragging the slider of K and of a weight redraws the picture."
    cells = run_all(tab, lab, "multidraft/04_optimal.ipynb")
    assert any("application/vnd.jupyter.widget-view+json" in output.get("data", {}) for cell in cells for output in cell["outputs"])
    tab.evaluate("""() => { const w = window.jupyterapp.shell.currentWidget.content;
        const i = w.widgets.findIndex(c => c.model.sharedModel.getSource().trim().endsWith('panel()')); w.activeCellIndex = i; w.scrollToItem(i, 'start'); }""")
    panel = tab.locator(".jp-OutputArea-output .widget-vbox").first
    panel.wait_for(timeout=30_000)
    picture = panel.locator("img").first
    picture.wait_for(timeout=30_000)
    seen = {picture.get_attribute("src")}
    for slider in (panel.get_by_role("slider").last, panel.get_by_role("slider").first):
        slider.focus()
        slider.press("ArrowUp")
        slider.press("ArrowUp")
        tab.wait_for_function("([before]) => ![...before].includes(document.querySelector('.jp-OutputArea-output .widget-vbox img')?.src) && document.querySelector('.jp-OutputArea-output .widget-vbox img')", arg=[list(seen)], timeout=30_000)
        seen.add(panel.locator("img").first.get_attribute("src"))
    assert len(seen) == 3
    tab.screenshot(path=tmp_path/"panel.png")
    close(tab)
