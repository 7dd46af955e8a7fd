"""What `embed` and `similar` are called with, checked before anything is sent."""

from typing import Any

import pytest

from config.catalog import Catalog, load_catalog
from config.errors import UnknownNameError
from config.settings import SHIPPED_CONFIG
from workers.calls import check
from workers.errors import InvalidCallError

SHIPPED = load_catalog(SHIPPED_CONFIG)


def embedded(*args: Any, **kwargs: Any) -> Any:
    return check("embed", SHIPPED, args, kwargs)


def test_a_text_is_a_list_of_one():
    """OpenAI's API takes both."""
    assert embedded("one").texts == embedded(["one"]).texts == ("one",)


def test_what_completions_said_is_embedded():
    """As a chain or a chord hands them on."""
    said = {"object": "chat.completion", "choices": [{"message": {"content": "said"}}]}

    assert embedded(said).texts == ("said",)
    assert embedded([said, "and this"]).texts == ("said", "and this")


def test_a_collection_has_documents_and_a_search_is_a_query():
    """nomic's models find less where both are read alike."""
    assert embedded(["x"]).input_type is None
    assert embedded(["x"], collection="posts").input_type == "document"
    assert embedded(["x"], collection="posts", input_type="clustering").input_type == "clustering"
    assert check("similar", SHIPPED, ["x"], {"collection": "posts"}).request == {
        "task": "similar",
        "input": ["x"],
        "input_type": "query",
        "collection": "posts",
        "k": 5,
    }


def test_the_catalog_names_the_model_where_the_caller_does_not():
    assert embedded(["x"]).model == SHIPPED.routing.embedding == "nomic-embed-text"


def test_a_catalog_without_one_asks_for_it():
    silent = Catalog.model_validate(
        {**dict(SHIPPED), "routing": SHIPPED.routing.model_copy(update={"embedding": None})}
    )

    with pytest.raises(InvalidCallError, match=r"no routing\.embedding"):
        check("embed", silent, [["x"]], {})


def test_a_model_that_is_unknown_is_named():
    with pytest.raises(UnknownNameError, match="nomic-embed-text"):
        embedded(["x"], model="nomic-embed-txt")


@pytest.mark.parametrize(
    ("args", "kwargs", "says"),
    [
        ([], {}, "texts must be a list of strings, got nothing"),
        ([[]], {}, "texts must be a list of 1 to 2048 strings, got 0"),
        ([["x"] * 2049], {}, "got 2049"),
        ([["x", 3]], {}, r"texts\[1\] must be a string, got a value of type int"),
        ([["x", " "]], {}, r"texts\[1\] must be a text that is not empty"),
        ([["a\x00b"]], {}, "without NUL"),
        ([["x"]], {"model": "kimi"}, "an embedding model, got 'kimi'"),
        ([["x"]], {"input_type": "quary"}, "did you mean 'query'"),
        ([["x"]], {"colection": "posts"}, "did you mean 'collection'"),
        ([["x"]], {"collection": "My Posts"}, "lower-case letters"),
        ([["x"], "y"], {}, "one positional argument, the texts; got 2"),
        ([["x"]], {"texts": ["y"]}, "one texts, got two"),
        ([["x"]], {"metadata": 3}, "a mapping"),
    ],
)
def test_a_wrong_call_of_embed_says_what_was_expected(args: Any, kwargs: Any, says: str):
    """A typo must not become a task that fails an hour later somewhere else."""
    with pytest.raises(InvalidCallError, match=f"^embed: .*{says}"):
        embedded(*args, **kwargs)


@pytest.mark.parametrize(
    ("args", "kwargs", "says"),
    [
        (["x"], {}, "collection must be the name of the collection"),
        ([["x"]], {"collection": "posts"}, "text must be a string, got a value of type list"),
        (["x"], {"collection": "posts", "k": 0}, "k must be a whole number from 1 to 1000"),
        (["x"], {"collection": "posts", "input_type": "query"}, "input_type must be one of the arguments"),
    ],
)
def test_a_wrong_call_of_similar_says_what_was_expected(args: Any, kwargs: Any, says: str):
    with pytest.raises(InvalidCallError, match=f"^similar: {says}"):
        check("similar", SHIPPED, args, kwargs)
