"""What goes over the network goes where it may, by real servers on loopback addresses."""

import ipaddress
import shutil
import ssl
import subprocess
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from web_world import LOOPBACK, pages, serving

from kweek.errors import ConfigError, KweekError
from kweek.system.tools import Toolbox
from kweek.system.tools.addresses import Forbidden, Guard, is_public, parts_of
from kweek.system.tools.fetch import fetch_tool
from kweek.system.tools.web import Web, WebError, WebLimits
from kweek.system.tools.web_search import SearchEndpoint, searxng, web_search_tool

HERE = ("127.0.0.0/8",)


@pytest.fixture(scope="module")
def world():
    with serving(pages) as server:
        yield server


def web(world, *, limits=None, **more):
    return Web(Guard([f"*:{world.port}"], HERE, **more), limits)


def test_fetch_gives_text_and_where_it_is_from(world):
    fetch = fetch_tool(Guard([f"{LOOPBACK}:{world.port}"], HERE))
    result = fetch({"url": f"{world.url}/page#part"})
    assert result.content == "T\n\nYou asked for /page."
    assert result.citations == (f"{world.url}/page#part",) and not result.trusted
    assert fetch({"url": f"{world.url}/packed"}).content == "gepäckt"
    assert fetch({"url": f"{world.url}/latin"}).content == "Grüße"
    assert fetch({"url": f"{world.url}/page", "start": 13}).content == "for /page."
    assert "Cookie" not in world.seen[-1] and "Authorization" not in world.seen[-1]


def test_what_this_network_alone_can_reach_is_private():
    assert fetch_tool(Guard(["*"])).effects == {"net"}
    assert fetch_tool(Guard(["*"], ["10.0.0.0/8"])).effects == {"net", "read"}


@pytest.mark.parametrize("path", ["binary", "missing", "loop"])
def test_answers_that_are_no_pages(world, path):
    with pytest.raises(WebError):
        fetch_tool(Guard([f"*:{world.port}"], HERE))({"url": f"{world.url}/{path}"})


@pytest.mark.parametrize("path", ["drip", "slow-head"])
def test_bytes_that_drip_are_cut_off_in_time(world, path):
    started = time.monotonic()
    with pytest.raises(WebError, match=r"within 0\.5 s"):
        web(world, limits=WebLimits(seconds=0.5)).get(f"{world.url}/{path}")
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("path", ["bomb", "endless"])
def test_answers_are_cut_to_size(world, path):
    page = web(world, limits=WebLimits(num_bytes=100_000)).get(f"{world.url}/{path}")
    assert page.body == b"0" * 100_000 and page.truncated


def test_redirects_are_checked_like_the_first_url(world):
    with serving(pages) as inside:
        guard = Guard([f"*:{world.port}"], HERE)
        to = f"{world.url}/redirect?to="
        assert Web(guard).get(f"{to}/page").url == f"{world.url}/page"
        for place in (
            f"{inside.url}/secret",
            "file:///etc/passwd",
            "gopher://x",
            "//169.254.169.254/latest",
            "http://[::1]/",
        ):
            with pytest.raises(Forbidden):
                Web(guard).get(to + place)
        assert inside.seen == []


def test_headers_go_to_the_first_place_only(world):
    web(world).get(f"{world.url}/redirect?to=/page", headers={"X-Key": "CANARY"})
    assert "CANARY" in world.seen[-2] and "CANARY" not in world.seen[-1]


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/", "http://localhost/", "http://2130706433/", "http://0x7f.1/", "http://0177.0.0.1/",
        "http://0/", "http://[::1]/", "http://[::ffff:127.0.0.1]/", "http://[64:ff9b::7f00:1]/",
        "http://[2002:7f00:1::]/", "http://10.0.0.1/", "http://192.168.1.1/", "http://172.16.0.1/", "http://169.254.169.254/",
        "http://100.64.0.1/", "http://224.0.0.1/", "http://255.255.255.255/", "http://[fe80::1]/", "http://[fc00::1]/", "http://[ff02::1]/",
        "http://user@example.org/", "http://a:b@example.org/", "file:///etc/passwd", "ftp://example.org/", "http:///x",
        "http://example.org\\@127.0.0.1/", "http://exa mple.org/", "http://example.org/\r\nX: y",
        "http://[fe80::1%25eth0]/", "javascript:alert(1)", "http://example.org:99999/", "http://ex%61mple.org/",
        "//example.org", "",
    ],
)  # fmt: skip
def test_urls_that_are_refused(url):
    with pytest.raises(Forbidden):
        Guard(["*", "*:99999"]).target(url)


def test_the_list(world):
    def resolve(host, port):
        return ["93.184.216.34"]

    guard = Guard(["docs.example.org", "*.example.com", "other.org:8080"], resolve=resolve)
    for url in (
        "http://docs.example.org",
        "https://DOCS.example.org./a",
        "http://a.b.example.com/",
        "http://other.org:8080/",
    ):
        assert guard.target(url).address == "93.184.216.34"
    for url in (
        "http://example.org", "http://evil-docs.example.org.evil.com/", "http://example.com/", "http://notexample.com/",
        "http://other.org/", "http://docs.example.org:8080/", "http://docs.example.org:22/",
    ):  # fmt: skip
        with pytest.raises(Forbidden, match="not on the list"):
            guard.target(url)


def test_a_name_that_moves_inside_is_followed_nowhere(world):
    """DNS rebinding: the answer that was checked is the one that is connected to, and each request checks anew."""
    answers = iter([["127.0.0.1"], ["127.0.0.2"], ["10.0.0.1"], ["127.0.0.1", "10.0.0.1"]])
    asked = []

    def resolve(host, port):
        asked.append(host)
        return next(answers)

    guarded = web(world, resolve=resolve)
    url = f"http://rebind.example:{world.port}/page"
    assert guarded.get(url).status == 200 and asked == ["rebind.example"]
    with pytest.raises(WebError):  # nobody listens on the second address
        guarded.get(url)
    for _ in range(2):
        with pytest.raises(Forbidden, match=r"10\.0\.0\.1"):
            guarded.get(url)
    assert len(asked) == 4


@pytest.mark.parametrize("found", [[], ["nonsense"], ["::ffff:10.0.0.1"], ["8.8.8.8", "127.0.0.1"]])
def test_names_with_bad_addresses(found):
    with pytest.raises(Forbidden):
        Guard(["*"], resolve=lambda host, port: found).target("http://x.example/")


@given(st.ip_addresses())
def test_public_is_what_the_registry_calls_global(address):
    if is_public(address):
        assert address.is_global and not address.is_private and not address.is_multicast
        assert getattr(address, "ipv4_mapped", None) is None and getattr(address, "sixtofour", None) is None


@given(st.text(max_size=40))
def test_any_text_is_a_url_or_refused(text):
    for url in (text, f"http://{text}"):
        try:
            scheme, host, port, path = parts_of(url)
        except Forbidden:
            continue
        assert scheme in ("http", "https") and host and 0 <= port < 65536 and path.startswith("/")


def test_some_addresses_by_hand():
    for text in ("8.8.8.8", "2606:4700:4700::1111"):
        assert is_public(ipaddress.ip_address(text))
    for text in ("::", "2001:0:7f00:1::", "::7f00:1", "0.0.0.0", "192.0.2.1", "198.18.0.1", "240.0.0.1"):
        assert not is_public(ipaddress.ip_address(text))


def test_search(world):
    box = Toolbox([web_search_tool(searxng(world.url))], {"net": "allow"})
    result = box.call("web_search", {"query": "röte & x", "num_results": 2})
    assert result.content == "1. T0\nhttp://x/0\nröte & x\n\n2. T1\nhttp://x/1\nröte & x"
    assert result.citations == ("http://x/0", "http://x/1") and not result.trusted


def test_search_of_another_kind_by_post(world):
    endpoint = SearchEndpoint(
        f"{world.url}/post?key=CANARY",
        "data.hits",
        "t",
        "at.u",
        "none",
        {"X-Key": "k"},
        {"q": "{query}", "n": [1, "x"]},
    )
    assert web_search_tool(endpoint)({"query": 'a"b'}).content == '1. a"b\nu\n'
    assert "X-Key: k" in world.seen[-1]


@pytest.mark.parametrize("path", ["missing", "page", "redirect?to=/search&x={query}", "latin", "loop"])
def test_search_servers_that_are_none(world, path):
    url = f"{world.url}/{path}" + ("" if "{" in path else "?key=CANARY&q={query}")
    with pytest.raises(KweekError) as caught:
        web_search_tool(SearchEndpoint(url))({"query": "x"})
    assert "CANARY" not in str(caught.value)


def test_what_cannot_be_meant():
    with pytest.raises(ConfigError):
        fetch_tool(Guard([]))
    with pytest.raises(ConfigError):
        SearchEndpoint("http://x/search")
    with pytest.raises(ConfigError):
        Guard(["*"], ["10.0.0"])


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
def test_tls_is_with_the_name_at_the_address_that_was_checked(tmp_path):
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    words = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        key,
        "-out",
        certificate,
        "-days",
        "2",
    ]
    subject = ["-subj", "/CN=site.example", "-addext", "subjectAltName=DNS:site.example"]
    subprocess.run([*words, *subject], check=True, capture_output=True)
    with serving(pages) as server:
        inner = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        inner.load_cert_chain(certificate, key)
        server.socket = inner.wrap_socket(server.socket, server_side=True)
        trusting = ssl.create_default_context(cafile=certificate)

        def get(host, context):
            guard = Guard([f"*:{server.port}"], HERE, lambda name, port: [LOOPBACK])
            return Web(guard, WebLimits(seconds=10), context).get(f"https://{host}:{server.port}/page")

        assert get("site.example", trusting).status == 200
        for host, context in (("other.example", trusting), ("site.example", None)):
            with pytest.raises(WebError, match="CERTIFICATE_VERIFY_FAILED"):
                get(host, context)
