"""Attachments on their way to the backends, against strict servers over real sockets."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest

from providers import Attachment, Message, ProviderError
from providers.attachments import AttachmentBounds, loaded
from providers.claude import ATTACHMENTS, ClaudeProvider
from providers.openai import OpenAIProvider
from tests.fakes.messages_api import MessagesApi
from tests.fakes.responses_stream import ResponsesFake, serving, text_answer
from tests.providers.asking import collect
from tests.providers.turns import collected, failed, turn

PNG = b"\x89PNG\r\n\x1a\n and pixels"
PDF = b"%PDF-1.7 and pages"


class File:
    """An attachment that notes whether it was read."""

    def __init__(self, name: str, content: bytes, content_type: str = "image/png") -> None:
        self.content = content
        self.reads = 0
        self.attachment = Attachment(f"f-{name}", name, content_type, len(content), self._read)

    async def _read(self) -> bytes:
        self.reads += 1
        return self.content


def picture(name: str = "a.png", content: bytes = PNG) -> File:
    return File(name, content)


def document(name: str = "a.pdf") -> File:
    return File(name, PDF, "application/pdf")


def said(content: str, *files: File) -> Message:
    return Message("user", content, tuple(file.attachment for file in files))


def encoded(file: File) -> str:
    return base64.b64encode(file.content).decode()


@pytest.fixture
async def openai_fake() -> AsyncIterator[ResponsesFake]:
    async with serving() as server:
        yield server


@pytest.fixture
async def openai(openai_fake: ResponsesFake) -> AsyncIterator[OpenAIProvider]:
    async with OpenAIProvider(model="test-model", base_url=openai_fake.base_url, api_key="test-key") as made:
        yield made


async def test_claude_gets_pictures_and_documents_before_the_text(api: MessagesApi, claude: ClaudeProvider) -> None:
    image, paper = picture(), document()
    await collected(claude, turn(messages=[said("What is this?", image, paper)]))
    assert api.calls[0].body["messages"] == [
        {
            "role": "user",
            "content": [
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": encoded(image)}},
                {
                    "type": "document",
                    "source": {"type": "base64", "media_type": "application/pdf", "data": encoded(paper)},
                    "title": "a.pdf",
                },
                {"type": "text", "text": "What is this?"},
            ],
        }
    ]


async def test_claude_gets_those_of_the_history_too_and_a_message_may_be_a_picture_alone(
    api: MessagesApi, claude: ClaudeProvider
) -> None:
    messages = [
        said(" ", picture()),
        Message("assistant", ""),
        said("And now?"),
        Message("assistant", "A dot."),
        said("?"),
    ]
    await collected(claude, turn(messages=messages))
    first, answer, last = api.calls[0].body["messages"]
    assert [block["type"] for block in first["content"]] == ["image", "text"]
    assert (answer["content"], last["content"]) == ("A dot.", "?")


async def test_openai_gets_pictures_and_documents_before_the_text(
    openai_fake: ResponsesFake, openai: OpenAIProvider
) -> None:
    openai_fake.answer(text_answer("A page."))
    image, paper = picture(), document()
    await collect(openai, turn(messages=[said("", image), Message("assistant", "A dot."), said("And this?", paper)]))
    assert openai_fake.calls[0].body["input"] == [
        {
            "role": "user",
            "content": [
                {"type": "input_image", "image_url": f"data:image/png;base64,{encoded(image)}", "detail": "auto"}
            ],
        },
        {"role": "assistant", "content": "A dot."},
        {
            "role": "user",
            "content": [
                {
                    "type": "input_file",
                    "filename": "a.pdf",
                    "file_data": f"data:application/pdf;base64,{encoded(paper)}",
                },
                {"type": "input_text", "text": "And this?"},
            ],
        },
    ]


@pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")
async def test_a_picture_larger_than_the_api_takes_fails_the_turn_as_too_large_and_nothing_is_asked(
    api: MessagesApi, claude: ClaudeProvider
) -> None:
    largest = picture("large.png", PNG + b"x" * (ATTACHMENTS.image_bytes - len(PNG)))
    larger = picture("larger.png", largest.content + b"x")
    _, error = await failed(claude, turn(messages=[said("?", larger)]))
    assert (error.code, error.retryable, larger.reads) == ("too_large", False, 0)
    assert api.calls == []
    await collected(claude, turn(messages=[said("?", largest)]))
    assert len(api.calls) == 1


async def test_one_that_was_too_large_does_not_spoil_the_turns_after_it(
    api: MessagesApi, claude: ClaudeProvider
) -> None:
    larger = picture("larger.png", PNG + b"x" * ATTACHMENTS.image_bytes)
    await collected(claude, turn(messages=[said("?", larger), said("Never mind.")]))
    (message,) = api.calls[0].body["messages"]
    assert [block["type"] for block in message["content"]] == ["text", "text", "text"]
    assert "larger.png" in message["content"][0]["text"]


async def loads(messages: list[Message], **bounds: int) -> list[list[bool]]:
    """Which attachments of which message would be sent."""
    limits: dict[str, int] = {"image_bytes": 100, "document_bytes": 100, "total_bytes": 100, "count": 100} | bounds
    parts = await loaded(messages, AttachmentBounds(**limits))
    return [[part.data is not None for part in of_message] for of_message in parts]


async def test_of_too_many_the_newest_are_sent_and_the_others_not_even_read() -> None:
    files = [picture(str(number), b"x" * 30) for number in range(5)]
    messages = [said("a", *files[:2]), said("b", files[2]), said("c", *files[3:])]
    assert await loads(messages) == [[False, False], [True], [True, True]]
    assert [file.reads for file in files] == [0, 0, 1, 1, 1]
    assert await loads(messages, count=4, total_bytes=1000) == [[True, False], [True], [True, True]]
    assert await loads([*messages, said("d")]) == [[False, False], [True], [True, True], []]


@pytest.mark.parametrize("bounds", [{"total_bytes": 59}, {"count": 1}, {"image_bytes": 29}])
async def test_those_of_the_last_message_all_fit_or_the_turn_fails(bounds: dict[str, Any]) -> None:
    with pytest.raises(ProviderError) as caught:
        await loads([said("a", picture("1", b"x" * 30), picture("2", b"x" * 30))], **bounds)
    assert caught.value.code == "too_large"


async def test_one_whose_file_is_gone_fails_the_turn_with_what_its_reader_says() -> None:
    async def read() -> bytes:
        raise ProviderError("invalid_request", "gone")

    gone = Attachment("f", "a.png", "image/png", 3, read)
    with pytest.raises(ProviderError, match="gone"):
        await loads([Message("user", "?", (gone,))])
