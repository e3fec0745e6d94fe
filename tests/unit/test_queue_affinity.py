"""Which requests belong to one conversation."""

from typing import Any

from llamakit_proxy.affinity import HEAD_CHARACTERS, MAX_CONVERSATIONS, Homes, conversation


def chat(*texts: str, system: str = "Be brief.") -> dict[str, Any]:
    """A chat in which user and assistant alternate."""
    roles = ("user", "assistant")
    messages = [{"role": roles[number % 2], "content": text} for number, text in enumerate(texts)]
    return {"messages": [{"role": "system", "content": system}, *messages]}


def test_a_conversation_keeps_its_number_while_it_grows() -> None:
    first = conversation(1, chat("Hello?"))
    assert conversation(1, chat("Hello?", "Yes.", "Tell me more.")) == first
    assert conversation(1, chat("Hello?", "Yes.", "Tell me more.", "Well,", "Go on.")) == first


def test_others_have_other_numbers() -> None:
    numbers = {
        conversation(1, chat("Hello?")),
        conversation(2, chat("Hello?")),
        conversation(1, chat("Hello!")),
        conversation(1, chat("Hello?", system="Be verbose.")),
        conversation(1, {"prompt": "Hello?"}),
        conversation(1, {"prompt": "Hello!"}),
    }
    assert len(numbers) == 6


def test_only_the_head_counts() -> None:
    long = "x" * HEAD_CHARACTERS
    assert conversation(1, chat("a", system=long)) == conversation(1, chat("b", system=long))
    assert conversation(1, {"prompt": long}) == conversation(1, {"prompt": long + "y"})
    many = [{"role": "system", "content": "x"}] * 4096
    assert isinstance(conversation(1, {"messages": many}), int)


def test_what_is_remembered_is_bounded() -> None:
    homes = Homes()
    for talk in range(3 * MAX_CONVERSATIONS):
        homes.put(talk, "a")
        homes.put(0, "b")
    assert len(homes) == MAX_CONVERSATIONS
    assert homes.get(0) == "b"
    assert homes.get(1) is None
