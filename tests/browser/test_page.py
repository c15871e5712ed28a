"""An operator's night at the page: orders, the night as it happens, what it found; in the order of the clock."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import NARROW, TABLES, TOKEN, WIDE, Open, Site, sign_in
from tests.conftest import BINANCE, COINBASE, GOLD

pytestmark = pytest.mark.browser

Picture = Callable[..., None]
# The browser logs this for every response that is no success.
FORBIDDEN = "the server responded with a status of 403"


def all_right(page: Page) -> None:
    """What holds for every page: nothing sticks out, and whatever can be used has a name."""
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{page.url} is wider than its window"
    unnamed = page.evaluate(
        """[...document.querySelectorAll('a, button, summary, input:not([type=hidden], [hidden]), select, progress')]
             .filter(e => !(e.textContent.trim() || e.labels?.length || e.getAttribute('aria-label')))
             .map(e => e.outerHTML)"""
    )
    assert unnamed == [], page.url
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(e => e.tagName)")
    assert levels[:1] == ["H1"], page.url
    assert levels.count("H1") == 1, page.url
    assert page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id).sort()") == sorted(
        page.evaluate("[...new Set([...document.querySelectorAll('[id]')].map(e => e.id))]")
    ), page.url


def last_run(page: Page) -> str:
    """The path of the newest run."""
    page.goto("/runs")
    return str(page.locator("tbody th a").first.get_attribute("href"))


def failed_night(page: Page) -> str:
    """The path of the run that found the damage."""
    page.goto("/")
    return str(page.get_by_role("link", name="The night of 2026-02-18 failed.").get_attribute("href"))


def unfold(page: Page) -> None:
    page.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")


def test_only_the_token_lets_in_and_an_order_can_be_cancelled(open_page: Open) -> None:
    with open_page(expected=FORBIDDEN) as page:
        page.goto("/settings")
        expect(page.get_by_role("button", name="Reload")).to_have_count(0)
        page.get_by_role("link", name="Sign in").click()
        page.get_by_label("The token").fill("a guess")
        page.get_by_role("main").get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("That is not the token")
        page.get_by_label("The token").fill(TOKEN)
        page.get_by_role("main").get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("The settings in force")
        expect(page.get_by_role("main")).not_to_contain_text(TOKEN)

        page.get_by_role("link", name="Overview").click()
        page.get_by_role("button", name="Run now").click()
        page.wait_for_url("**/runs/*")
        page.get_by_role("button", name="Cancel this run").click()
        expect(page.locator("h1 .badge")).to_have_text("cancelled")
        expect(page.get_by_role("button", name="Cancel this run")).to_have_count(0)


def test_a_night_is_seen_from_start_to_end_without_a_reload(open_page: Open, picture: Picture) -> None:
    with open_page(color_scheme="dark") as page:
        page.goto(f"/tables/{COINBASE}?days=90")
        expect(page.locator(".chart .drawing")).to_have_count(6)
        picture(page, "table-dark")
        page.goto("/tables")
        expect(page.locator(".days tbody tr")).to_have_count(len(TABLES))
        expect(page.locator(".days tbody td")).to_have_count(60 * len(TABLES))
        assert page.locator(".days tbody .certified").count() > 60
        picture(page, "days-dark", page.locator("[data-live=days]"))
        page.goto("/")
        page.evaluate("window.sameDocument = true")
        night = page.locator("[data-live=run]")
        expect(page.locator("#live")).to_have_text("live")
        expect(night.get_by_text("running")).to_be_visible(timeout=90_000)
        expect(page).to_have_title("✓ Everything is all right, a run is under way · icekeeper")
        expect(night.locator(".stage")).to_have_count(3)
        expect(night.locator("tbody tr")).to_have_count(len(TABLES))
        expect(night.get_by_text("in hand")).to_be_visible()
        expect(page.locator(".calendar .day.running")).to_have_count(1)

        # Another tab shows the run itself.
        with page.context.expect_page() as opened:
            night.locator("h2 a").click(modifiers=["Control"])
        run = opened.value
        run.evaluate("window.sameDocument = true")
        expect(run.locator("h1 .badge")).to_have_text("running")

        expect(night.locator("progress#stage-compact")).not_to_have_js_property("value", 0, timeout=120_000)
        picture(page, "night-dark")
        expect(page.locator(".facts .badge.failed")).to_be_visible(timeout=120_000)
        expect(night.locator(".panel")).to_have_count(0)
        expect(page.locator(".problems")).to_contain_text("The night of 2026-02-18 failed.")
        expect(page.locator(".problems")).to_contain_text(f"{COINBASE}: 1 day lacks rows")
        expect(page.locator(".calendar .day.running")).to_have_count(0)
        expect(run.locator("h1 .badge")).to_have_text("failed")
        expect(run.locator("[data-live=tasks] tbody tr")).to_have_count(3 * len(TABLES))
        assert page.evaluate("window.sameDocument")
        assert run.evaluate("window.sameDocument")
        expect(page).to_have_title("✗ Something is wrong · icekeeper")


def test_what_is_wrong_with_a_day_is_two_clicks_away_and_its_keys_are_two_more(
    open_page: Open, picture: Picture
) -> None:
    with open_page(color_scheme="light") as page:
        page.goto("/")
        expect(page.locator("#live")).to_have_text("live")
        picture(page, "home-light")
        page.emulate_media(color_scheme="dark")
        page.set_viewport_size(NARROW)
        picture(page, "phone-dark")
        page.emulate_media(color_scheme="light")
        page.set_viewport_size(WIDE)
        page.get_by_role("link", name="The night of 2026-02-18 failed.").click()
        first = page.locator("[data-live=audits] tbody tr").first
        expect(first.locator("th")).to_have_text(COINBASE)
        expect(first).to_contain_text("missing data")
        expect(first.locator("figcaption")).to_contain_text("missing 13:00-15:00, 20:05-20:27")
        expect(first.locator("figcaption")).to_contain_text("changed 20:10-20:12")
        expect(first.locator(".strip li")).to_have_count(24)
        marked: dict[str, list[str]] = first.locator(".strip li:not(:has(.none))").evaluate_all(
            "hours => Object.fromEntries(hours.map(e => [e.title.slice(0, 16), "
            "[...e.querySelectorAll('.mark')].map(mark => mark.classList[1])]))"
        )
        assert marked == {
            "2026-02-17 06:00": ["duplicate"],
            "2026-02-17 09:00": ["extra"],
            "2026-02-17 13:00": ["missing"],
            "2026-02-17 14:00": ["missing"],
            "2026-02-17 20:00": ["missing", "changed"],
        }
        found = first.locator(".found > details")
        assert [text.strip() for text in found.locator("> summary").all_inner_texts()] == [
            "missing: 120 rows, cycle lost",
            "missing: 22 rows, behind watermark",
            "extra: 7 rows",
            "duplicate: 15 rows, written twice",
            "changed: 2 rows",
        ]
        picture(page, "run-light")
        expect(first).to_contain_text(f"icekeeper ack {COINBASE} 2026-02-17")
        first.get_by_text("Count again").click()
        expect(first.locator("details pre").first).to_contain_text("SELECT")
        first.get_by_text("Count again").click()
        late = found.nth(1)
        late.locator("summary").first.click()
        expect(late).to_contain_text("20:05-20:27 22 of ClickHouse’s 44 rows, Iceberg has 22")
        expect(late).to_contain_text("Evidence: the offload's watermark is")
        late.get_by_text("Some of the keys").click()
        expect(late.locator("details code").first).to_have_text(re.compile(r"symbol=\w+-USD, sequence_number=\d+"))
        picture(page, "findings", of=page.locator("[data-live=audits]"))
        first.get_by_role("link", name=COINBASE).click()
        found = page.get_by_role("row").filter(has_text="2026-02-17 00:00").filter(has_text="missing data")
        expect(found).to_contain_text("−120")


def test_the_log_is_filtered_searched_and_downloaded(open_page: Open) -> None:
    with open_page() as page:
        page.goto("/runs")
        page.get_by_label("Trigger").select_option("schedule")
        page.get_by_role("button", name="Show").click()
        page.locator("tbody th a").first.click()
        lines = page.locator(".lines tbody tr")
        whole = lines.count()
        page.get_by_label("With").fill("COINBASE")
        page.get_by_role("button", name="Show").click()
        assert 0 < lines.count() < whole
        assert all("coinbase" in text for text in lines.all_inner_texts())
        with page.expect_download() as download:
            page.get_by_role("link", name="Download").click()
        kept = [json.loads(line) for line in download.value.path().read_text().splitlines()]
        assert download.value.suggested_filename.startswith("icekeeper-2026-02-18-")
        assert len(kept) == lines.count()
        page.get_by_label("At least").select_option("error")
        page.get_by_role("button", name="Show").click()
        expect(page.get_by_text("No lines like that.")).to_be_visible()


def test_orders_are_given_tried_and_a_reload_says_what_it_changed(open_page: Open, site: Site) -> None:
    with open_page(signed_in=True) as page:
        page.goto("/")
        page.get_by_role("button", name="Dry run").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("What this run would do")
        # Tasks that would be skipped are shown, too.
        expect(page.locator("tbody tr .badge.skip").first).to_be_visible()
        expect(page.locator("tbody tr")).to_have_count(3 * len(TABLES))

        page.get_by_role("checkbox", name="audit").check()
        page.get_by_role("checkbox", name=GOLD).check()
        page.get_by_role("button", name="Run", exact=True).click()
        page.wait_for_url("**/runs/*")
        expect(page.locator("h1 .badge")).to_have_text("success")
        assert page.locator("[data-live=tasks] tbody tr th").all_inner_texts() == [GOLD]

        site.edit(schedule={"cron": "30 3 * * *"})
        page.goto("/settings")
        page.get_by_role("button", name="Reload the configuration").click()
        expect(page.get_by_role("main")).to_contain_text("schedule.cron")
        page.goto("/")
        expect(page.locator(".facts")).to_contain_text("03:30")
        site.edit(schedule={"cron": "0 25 * * *"})
        page.get_by_role("button", name="Reload the configuration").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("The configuration is kept as it was")
        expect(page.get_by_role("main")).to_contain_text("schedule.cron")
        page.goto("/")
        expect(page.locator(".problems")).to_contain_text("The last reload was refused")
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("button", name="Run now")).to_have_count(0)


def test_the_keyboard_reaches_everything_and_shows_where_it_is(open_page: Open) -> None:
    with open_page(signed_in=True) as page:
        page.goto("/")
        reached: list[str] = []
        while len(reached) < 20 and "Choose stages and tables" not in reached:
            page.keyboard.press("Tab")
            seen: dict[str, Any] = page.evaluate(
                """(() => { const e = document.activeElement, box = e.getBoundingClientRect();
                     return {text: e.textContent.trim(), ring: getComputedStyle(e).outlineStyle,
                             inside: box.left >= 0 && box.width > 0}; })()"""
            )
            assert seen["ring"] == "solid", seen
            assert seen["inside"], seen
            reached.append(seen["text"])
        assert reached[:8] == [
            "Skip to the content", "icekeeper", "Overview", "Runs", "Tables", "Plan", "Settings", "Sign out",
        ]  # fmt: skip
        assert reached[-4:] == ["Run now", "Dry run", "Reload the configuration", "Choose stages and tables"]
        page.goto("/")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.closest('.problems') !== null")


def test_where_the_keyboard_is_and_what_is_unfolded_outlives_an_update(open_page: Open) -> None:
    with open_page() as page:
        page.goto(failed_night(page))
        page.locator("summary").first.click()
        page.locator("details details summary").first.click()
        page.evaluate("document.querySelector('[data-live=audits] thead').remove()")  # so that there is an update
        page.evaluate("soon()")
        expect(page.locator("[data-live=audits] thead")).to_have_count(1)
        assert page.evaluate("document.activeElement.textContent") == "Some of the keys"
        assert page.locator("details[open]").count() == 2
        assert page.locator("details details").first.evaluate("e => e.open")


def test_without_javascript_everything_is_there_and_orders_are_taken(open_page: Open) -> None:
    with open_page(java_script_enabled=False) as page:
        page.goto("/")
        expect(page.get_by_role("heading", level=1)).to_have_text("Something is wrong")
        # Orders given since are no nights: the failed one stays in sight.
        expect(page.locator(".problems")).to_contain_text("The night of 2026-02-18 failed.")
        expect(page.locator("[data-live=tables] tbody tr")).to_have_count(len(TABLES))
        expect(page.locator(".calendar .day")).not_to_have_count(0)
        for path in ("/runs", "/tables", f"/tables/{GOLD}", "/plan", "/settings"):
            answer = page.goto(path)
            assert answer is not None
            assert answer.ok
        page.goto(failed_night(page))
        page.locator(".found summary").first.click()
        page.locator(".found details details summary").first.click()
        expect(page.locator(".found code").first).to_be_visible()
        sign_in(page)
        page.get_by_role("link", name="Choose stages and tables").click()
        page.get_by_role("checkbox", name="expire").check()
        page.get_by_role("checkbox", name=BINANCE).check()
        page.get_by_role("button", name="Run", exact=True).click()
        page.wait_for_url("**/runs/*")
        for _ in range(120):  # the page without JavaScript does not refresh by itself
            if page.locator("h1 .badge").inner_text() != "running":
                break
            page.reload()
        expect(page.locator("h1 .badge")).to_have_text("success")
        expect(page.locator("[data-live=tasks]")).to_contain_text("nothing expired")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", ["wide", "narrow"])
def test_every_page_fits_and_is_named_through_and_through(open_page: Open, scheme: str, width: str) -> None:
    narrow = {"viewport": NARROW} if width == "narrow" else {}
    with open_page(signed_in=True, color_scheme=scheme, **narrow) as page:
        runs = last_run(page), failed_night(page)
        for path in ("/", "/runs", *runs, "/tables", f"/tables/{COINBASE}?days=2000", "/plan", "/settings", "/sign-in"):
            page.goto(path)
            unfold(page)
            all_right(page)


def test_what_does_not_exist_is_reported_in_the_page(open_page: Open) -> None:
    with open_page(expected="the server responded with a status of 4") as page:
        for path in ("/runs/no-id", "/runs/00000000-0000-0000-0000-000000000000", "/tables/cold.%3Cscript%3E"):
            page.goto(path)
            expect(page.get_by_role("heading", level=1)).to_be_visible()
            all_right(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_accessibility_audit_finds_nothing(open_page: Open, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    with open_page(signed_in=True, color_scheme=scheme) as page:
        runs = last_run(page), failed_night(page)
        for path in ("/", "/runs", *runs, "/tables", f"/tables/{COINBASE}", "/plan", "/settings", "/sign-in"):
            page.goto(path)
            unfold(page)
            found = Axe().run(page)
            assert found.violations_count == 0, f"{path}: {found.generate_report()}"
