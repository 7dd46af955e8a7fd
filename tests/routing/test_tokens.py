"""Estimates of tokens, and what is learned about them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.estimates import MARGIN, SEEN_BEFORE_BELIEVED, Estimates, Seen, is_telling
from routing.tokens import TOKENS_PER_IMAGE, estimate_tokens, script_of, tokens_in

SENTENCES = {
    "ASCII": "The dispatcher routes each task to a dedicated queue, and every result lands in Postgres.",
    "CJK": "调度器把每个任务路由到专用队列, 每个结果都记录在数据库中。",
    "KATAKANA": "ディスパッチャーはタスクをキューにルーティングします。",
    "THAI": "ผู้จัดส่งจะส่งงานแต่ละงานไปยังคิวเฉพาะ",
    "MYANMAR": "အလုပ်တစ်ခုစီကို သီးသန့်တန်းစီသို့ပို့ဆောင်သည်။",
    "ARABIC": "يقوم المرسل بتوجيه كل مهمة إلى قائمة انتظار مخصصة.",
    "DEVANAGARI": "डिस्पैचर प्रत्येक कार्य को एक समर्पित कतार में भेजता है।",
    "CYRILLIC": "Диспетчер направляет каждую задачу в выделенную очередь.",
    "HANGUL": "디스패처는 각 작업을 전용 대기열로 보냅니다.",
    "ETHIOPIC": "አስተላላፊው እያንዳንዱን ተግባር ወደ ወረፋ ይልካል።",
    "LATIN": "Öl, Übergrößenträger, façade, naïveté, smörgåsbord",
}


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize(("script", "text"), SENTENCES.items(), ids=list(SENTENCES))
def test_the_script_of_a_prompt_is_named(script: str, text: str):
    """Corrections are kept by script: a vocabulary that knows English may know no Burmese."""
    assert script_of(user(text)) == script


def test_a_template_with_a_prompt_of_its_own_is_allowed_for():
    """SmolLM2's puts twenty tokens before a conversation without a system prompt; others more."""
    assert estimate_tokens(user("Say hi")) >= 32


@given(st.text(), st.text())
def test_an_estimate_grows_with_the_text_and_never_exceeds_its_bytes(text: str, more: str):
    """Bytes bound the tokens of every vocabulary; less text is never more tokens."""
    assert tokens_in(text) <= tokens_in(text + more) <= len((text + more).encode())


def test_pictures_and_tools_count_as_well():
    """A prompt of one picture has no text, and is not free of tokens."""
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x"}}]}]
    tool = {"type": "function", "function": {"name": "look", "description": "Looks." * 100}}

    assert estimate_tokens(picture) >= TOKENS_PER_IMAGE
    assert estimate_tokens(user("x"), [tool]) > estimate_tokens(user("x")) + 300


def test_an_estimate_is_lowered_only_after_enough_prompts_of_the_same_script():
    """One Chinese prompt says nothing about a Thai one."""
    estimates = Estimates()
    for prompts in range(SEEN_BEFORE_BELIEVED):
        assert estimates.tokens("kimi", "CJK", 1000, 900) == 1000, prompts
        estimates.learn("kimi", "CJK", Seen(1, 0.3))

    assert estimates.tokens("kimi", "CJK", 1000, 900) == 1000 - int(900 * (1 - 0.3 * MARGIN))
    assert estimates.tokens("kimi", "CJK", 1000, 0) == 1000, "code around a few words is as long as it was"
    assert estimates.tokens("kimi", "THAI", 1000, 900) == 1000
    assert estimates.tokens("qwen", "CJK", 1000, 900) == 1000


def test_an_estimate_that_was_too_low_is_raised_at_once():
    """The next prompt of the kind would overflow the context too."""
    estimates = Estimates()

    estimates.learn("kimi", "ASCII", Seen(1, 1.5))

    assert estimates.tokens("kimi", "ASCII", 1000, 0) == round(1000 * 1.5 * MARGIN)


@pytest.mark.parametrize(
    ("counted", "estimated", "wide", "tells"),
    [(32, 120, 0, False), (130, 120, 0, True), (250, 1000, 900, True), (250, 1000, 100, False)],
    ids=["short", "too low", "all of one script", "mixed"],
)
def test_only_a_telling_prompt_teaches(counted: int, estimated: int, wide: int, *, tells: bool):
    """Of a short prompt the template is the larger part: its ratio would be wrong for a long one."""
    assert is_telling(counted, estimated, wide) == tells


@given(st.lists(st.floats(0.01, 3), min_size=1, max_size=60), st.integers(1, 100_000))
def test_what_was_seen_is_never_estimated_too_low_again(ratios: list[float], estimated: int):
    """Never too low for what is like what was seen."""
    estimates = Estimates()
    for ratio in ratios:
        estimates.learn("kimi", "CJK", Seen(1, ratio))

    assert estimates.tokens("kimi", "CJK", estimated, estimated) >= int(estimated * max(ratios))
