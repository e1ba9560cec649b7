import pytest

from tools.bars import bars
from tools.chunk import Chunk
from tools.measured import Case, Result
from tools.peers import Size
from tools.roofline import Roof, measure_roof

PEERS = {
    "native": 1.0,
    "function body": 5.0,
    "eager": 30.0,
    "torch lstm": 2.0,
    "lstm operator": 1.2,
}

SIZE = Size(1, 784, 1, 100)


def case(size=SIZE, roof=0.1, error=1e-7, **times):
    results = [
        Result(peer, us, us, us, us, us, None, None, None, None)
        for peer, us in (PEERS | times).items()
    ]
    errors = {"native": error, "eager": 1e-7}
    return Case(size, 1, 5, {}, errors, Roof(1, 1, 1, roof), results)


def verdicts(case, chunk=1.0):
    found = bars([case], Chunk(Size(1, 1, 1, 100), chunk, 1.0))
    return {bar.what: (round(bar.measured, 2), bar.met) for bar in found}


def test_all_are_met():
    assert verdicts(case()) == {
        "time / LSTM operator's": (0.83, True),
        "time / torch.nn.LSTM's": (0.5, True),
        "eager's time / time": (30.0, True),
        "function body's time / time": (5.0, True),
        "error / training model's": (1.0, True),
        "call of one timestep / lstm operator's": (1.0, True),
    }


@pytest.mark.parametrize(
    ("times", "what"),
    [
        ({"lstm operator": 0.9}, "time / LSTM operator's"),
        ({"torch lstm": 1.2}, "time / torch.nn.LSTM's"),
        ({"eager": 24.0}, "eager's time / time"),
        ({"function body": 3.9}, "function body's time / time"),
    ],
)
def test_one_is_missed(times, what):
    times = {peer.replace("_", " "): us for peer, us in times.items()}
    assert [name for name, (_, met) in verdicts(case(**times)).items() if not met] == [what]


def test_errors_and_calls():
    found = verdicts(case(error=1.6e-7), chunk=1.2)
    assert found["error / training model's"] == (1.6, False)
    assert found["call of one timestep / lstm operator's"] == (1.2, False)


def test_a_size_that_is_to_be_faster():
    found = verdicts(case(Size(1, 100, 64, 256), **{"lstm operator": 1.05}))
    assert found["time / LSTM operator's"] == (0.95, False)
    assert "eager's time / time" not in found


def test_torch_may_be_as_fast_where_nothing_can_be_faster():
    assert "time / torch.nn.LSTM's" not in verdicts(case(roof=0.96))


def test_a_roof():
    small, large = (measure_roof(Size(1, 1, 1, hidden), 1) for hidden in (64, 512))
    assert small.weight_bytes == 16 * 64 * 65
    for roof in (small, large):
        assert roof.us_per_timestep >= roof.weight_bytes / roof.gb_per_s / 1e3 * 0.99
    many = measure_roof(Size(1000, 1, 1, 64), 1)
    assert many.us_per_timestep == pytest.approx(
        2 * 1000 * 4 * 64 * 65 / many.gflop_per_s / 1e3, rel=1e-6
    )
