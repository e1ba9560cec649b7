"""What is written as text is what Triton's protobuf reads."""

from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from bnlstm_deploy.deploy.pbtxt import Word, write
from tests.deploy.driver import model_config_pb2

# Lone surrogates are not text: neither a protobuf nor a file in UTF-8 can hold them.
STRINGS = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(
    [
        "",
        'a "quote"',
        "it's",
        "two\nlines\r\n",
        "\\n",
        "\t\0\x01\x7f\x85\u2028",
        "\\u0041",
        "é 日 😀",
    ]
)


def parse(message):
    # through bytes, as the file is written and read
    text = write(message).encode().decode()
    return text_format.Parse(text, model_config_pb2.ModelConfig())


@given(STRINGS, STRINGS)
def test_any_text_comes_back(name, value):
    parameters = [{"key": name, "value": {"string_value": value}}]
    config = parse({"name": name, "parameters": parameters})
    assert config.name == name
    assert {k: v.string_value for k, v in config.parameters.items()} == {name: value}


@given(
    st.lists(st.integers(-(2**63), 2**63 - 1)),
    st.integers(0, 2**64 - 1),
    st.booleans(),
    st.sampled_from(["TYPE_FP32", "TYPE_INT64"]),
)
def test_numbers_enumerators_and_lists_come_back(dims, delay, ragged, word):
    value = {"data_type": Word(word), "dims": dims, "allow_ragged_batch": ragged}
    config = parse(
        {
            "max_batch_size": 8,
            "input": [value, {"name": "second"}],
            "dynamic_batching": {"max_queue_delay_microseconds": delay},
        }
    )
    first, second = config.input
    assert list(first.dims) == dims
    assert model_config_pb2.DataType.Name(first.data_type) == word
    assert first.allow_ragged_batch is ragged
    assert second.name == "second"
    assert config.max_batch_size == 8
    assert config.dynamic_batching.max_queue_delay_microseconds == delay


def test_what_is_none_or_an_empty_list_is_left_out():
    assert write({"name": None, "input": [], "optimization": {"priority": None}}) == (
        "optimization {\n}\n"
    )
