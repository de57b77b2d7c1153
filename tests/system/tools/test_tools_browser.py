"""A real Chromium: it reads, clicks, types, is looked at, and gets out nowhere but through the guard."""

import shutil
import socket
import time

import pytest
from web_world import LOOPBACK, Handler, serving

from kweek.system.tools import Toolbox
from kweek.system.tools.addresses import Forbidden, Guard
from kweek.system.tools.browser import Browser, BrowserError, browser_tools
from kweek.system.tools.browser.proxy import proxying
from kweek.system.tools.browser.tree import tree_of

HERE = ("127.0.0.0/8",)
needs_chromium = pytest.mark.skipif(
    not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), reason="no Chromium"
)


def site(request: Handler) -> None:
    path = request.path.partition("?")[0]
    if path == "/form":
        request.give(
            b"<title>Form</title><h1>Search</h1><form action=/found><input name=q aria-label=Words value=old>"
            b"<button>Go</button></form><a href=/next>Next page</a><a href=/next target=_blank>New window</a>"
        )
    elif path == "/found":
        request.give(f"<h1>Results for {request.query['q'][0]}</h1>".encode())
    elif path == "/steal":
        port = request.query["port"][0]
        request.give(
            f"<h1>Stealing</h1><img src=http://{LOOPBACK}:{port}/image><script>"
            f"fetch('http://localhost:{port}/fetch').catch(()=>0);"
            f"try {{ new WebSocket('ws://{LOOPBACK}:{port}/socket') }} catch (e) {{}};"
            f"navigator.sendBeacon('http://{LOOPBACK}:{port}/beacon', 'x');"
            f"try {{ let p = new RTCPeerConnection({{iceServers: [{{urls: 'stun:{LOOPBACK}:{port}'}}]}});"
            "p.createDataChannel('x'); p.createOffer().then(o => p.setLocalDescription(o)) } catch (e) {};"
            "setTimeout(() => { document.body.append('tried') }, 300)</script>".encode()
        )
    elif path == "/alert":
        request.give(
            b"<h1>Before</h1><script>alert('stop'); document.body.append('after the alert')</script>"
        )
    elif path == "/spin":
        request.give(b"<h1>Spin</h1><script>for(;;);</script>")
    elif path == "/local":
        request.give(b"<script>location = 'file:///etc/passwd'</script><h1>Stayed</h1>")
    else:
        request.give(f"<h1>Page {path}</h1>".encode())


@pytest.fixture(scope="module")
def world():
    with serving(site) as server:
        yield server


@pytest.fixture(scope="module")
def browser(world):
    with Browser(Guard([f"{LOOPBACK}:{world.port}"], HERE)) as found:
        yield found


@needs_chromium
def test_reading_clicking_typing(world, browser):
    page = browser.open(f"{world.url}/form")
    assert page.startswith(f"{world.url}/form\n") and "heading 'Search'" in page
    assert "[1] textbox 'Words' = 'old'" in page and "[2] button 'Go'" in page
    assert "heading 'Results for new words'" in browser.type(1, "new words", submit=True)
    browser.open(f"{world.url}/form")
    assert "heading 'Results for old'" in browser.click(2)
    browser.open(f"{world.url}/form")
    assert "heading 'Page /next'" in browser.click(4)  # in a window of its own
    assert browser.screenshot().startswith(b"\x89PNG")
    with pytest.raises(BrowserError, match="number 99"):
        browser.click(99)


@needs_chromium
def test_tools(world, browser):
    box = Toolbox(browser_tools(browser), {"net": "allow", "read": "allow"})
    result = box.call("open_page", {"url": f"{world.url}/form"})
    assert not result.trusted and result.citations == (f"{world.url}/form",)
    assert box.call("screenshot", {}).error is not None  # this network is private, its pages a stranger's
    assert box.fresh().call("screenshot", {}).images[0].startswith(b"\x89PNG")


@needs_chromium
def test_a_page_reaches_nothing_that_is_not_on_the_list(world, browser):
    with serving(site) as inside, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind((LOOPBACK, inside.port))
        page = browser.open(f"{world.url}/steal?port={inside.port}")
        time.sleep(1.0)
        assert "tried" in page or "tried" in browser.read()
        assert inside.seen == []
        udp.setblocking(False)
        with pytest.raises(BlockingIOError):
            udp.recv(100)
    assert len(browser.proxy.refused) >= 2
    with pytest.raises(Forbidden):
        browser.open("http://169.254.169.254/")
    with pytest.raises(Forbidden):
        browser.open("file:///etc/passwd")
    assert "root:" not in browser.open(f"{world.url}/local")


@needs_chromium
def test_pages_that_hold_things_up(world, browser):
    assert "after the alert" in browser.open(f"{world.url}/alert")
    with pytest.raises(BrowserError, match="no answer within"):
        browser.open(f"{world.url}/spin")
    assert "Page /fine" in browser.open(f"{world.url}/fine")


@needs_chromium
def test_nothing_is_left(world):
    with Browser(Guard([f"{LOOPBACK}:{world.port}"], HERE)) as browser:
        browser.open(f"{world.url}/form")
        folder, process = browser._chromium._folder, browser._chromium._process
    assert not folder.exists() and process.poll() is not None
    for program in ("/no/such/chromium", shutil.which("false")):
        with pytest.raises(BrowserError), Browser(Guard(["*"]), program=program):
            pass


def ask(port, text):
    with socket.create_connection((LOOPBACK, port)) as connection:
        connection.settimeout(10)
        connection.sendall(text)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_the_proxy_alone(world):
    listener = socket.create_server((LOOPBACK, 0))
    port = listener.getsockname()[1]
    with proxying(Guard([f"{LOOPBACK}:{world.port}"], HERE), listener) as proxy, serving(site) as inside:
        good = f"GET {world.url}/page HTTP/1.1\r\nHost: x\r\nProxy-Authorization: CANARY\r\n\r\n".encode()
        assert b"Page /page" in ask(port, good)
        assert "CANARY" not in world.seen[-1]
        two = good + f"GET {inside.url}/second HTTP/1.1\r\nHost: y\r\n\r\n".encode()
        ask(port, two)
        assert "second" not in "".join(world.seen) and inside.seen == []
        body = f"POST {world.url}/page HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabcdef".encode()
        ask(port, body)
        assert world.seen[-1].endswith("\nabc")
        tunnel = f"CONNECT {LOOPBACK}:{world.port} HTTP/1.1\r\n\r\nGET /tunnel HTTP/1.0\r\n\r\n".encode()
        assert b"Page /tunnel" in ask(port, tunnel)
        places = (f"CONNECT {LOOPBACK}:{inside.port}", f"GET {inside.url}/", "GET /", "CONNECT metadata:80")
        for bad in places:
            assert ask(port, f"{bad} HTTP/1.1\r\n\r\n".encode()).startswith(b"HTTP/1.1 403")
        proxy.guard = Guard(["*"], resolve=lambda name, port: ["8.8.8.8"])
        assert ask(port, b"CONNECT accounts.google.com:443 HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 403")
        assert ask(port, b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400")
        assert inside.seen == []


def test_trees_of_strangers():
    button = {
        "nodeId": "1",
        "role": {"value": "button"},
        "name": {"value": "x" * 9000},
        "backendDOMNodeId": 5,
    }
    text = {"nodeId": "2", "role": {"value": "StaticText"}, "name": {"value": "y"}}
    loop = [{**button, "childIds": ["1", "2", "none"]}, text]
    tree = tree_of(loop)
    assert tree.nodes == {1: 5} and tree.text.splitlines()[1] == "  y" and len(tree.text) < 600
    assert tree_of([]).text == ""
