"""A real browser as tools: Chromium, which has to be on the machine, behind a proxy that guards every address."""

from kweek.system.tools.browser.browser import Browser
from kweek.system.tools.browser.chromium import BrowserError
from kweek.system.tools.browser.tools import browser_tools

__all__ = ["Browser", "BrowserError", "browser_tools"]
