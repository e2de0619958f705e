"""The Qwen3-shaped file loads, and tokenises as Qwen3 does."""

import pytest

from inference.llama import Model
from inference.prompt import Prompter
from inference.protocol import ChatMessage, EngineConfig, Request
from inference.sizing import Plan
from tests.models.qwen3_shape import write_qwen3_shape


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = tmp_path_factory.mktemp("qwen3") / "tiny.gguf"
    write_qwen3_shape(path)
    return Model(EngineConfig("tiny", str(path), str(path.parent)), Plan(256, 1, 0, "f16", 0, 0.0, ""), lambda _: None)


@pytest.mark.parametrize("text", ["The capital of France is Paris.", "你好，世界！今天天气怎么样？"])
def test_text_comes_back_whole(model: Model, text: str) -> None:
    tokens = model.vocabulary.tokenize(text, special=False)
    assert b"".join(map(model.vocabulary.piece, tokens)).decode() == text


@pytest.mark.parametrize(("text", "token"), [("<think>", 151667), ("</think>", 151668), ("<|im_end|>", 151645)])
def test_marks_are_single_tokens(model: Model, text: str, token: int) -> None:
    assert model.vocabulary.tokenize(text, special=True) == [token]


def test_the_template_renders_and_the_model_computes(model: Model) -> None:
    prompter = Prompter(model.chat_template, model.vocabulary, model.context)
    tokens = prompter.build(Request((ChatMessage("user", "你好"),))).tokens
    assert tokens[0] == 151644
    model.add(0, tokens, 0)
    model.decode()
