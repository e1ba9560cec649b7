"""What the native kernel has to reach, and whether it does."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table

from tools.chunk import Chunk
from tools.measured import Case

OPERATOR, FASTER_OPERATOR = 1.0, 0.9
"""Of the LSTM operator's time, at all sizes and at those of FASTER."""
FASTER = ("1,100,64,256", "1,100,50,1000")
TORCH_LSTM, NEAR_ROOF = 0.8, 1.05
"""Of torch.nn.LSTM's time, but where the time is that many times the roof's."""
SPEED_UPS = (
    ("1,784,1,100", "eager", 25.0),
    ("1,784,1,100", "function body", 4.0),
    ("32,784,1,100", "function body", 1.3),
)
CHUNK = 1.15
"""Of the LSTM operator's call, for one timestep."""
OWN_ERROR = 1.5
"""Of the training model's own float32 error."""


@dataclass(frozen=True)
class Bar:
    """One of them."""

    size: str
    threads: int
    what: str
    measured: float
    bar: float
    least: bool
    """Whether the bar is the least, and not the most."""

    @property
    def met(self) -> bool:
        """Whether it is reached."""
        return self.measured >= self.bar if self.least else self.measured <= self.bar


def bars(cases: Sequence[Case], chunk: Chunk) -> Iterator[Bar]:
    """Yield the bars of all cases on the CPU."""
    for case in cases:
        size, times = str(case.size), {r.peer: r.us_per_timestep for r in case.results}
        native = times["native"]

        def most(what: str, measured: float, bar: float, at: Case = case) -> Bar:
            return Bar(str(at.size), at.threads, what, measured, bar, least=False)

        operator = FASTER_OPERATOR if size in FASTER else OPERATOR
        yield most("time / LSTM operator's", native / times["lstm operator"], operator)
        if case.roof is None or native > NEAR_ROOF * case.roof.us_per_timestep:
            yield most("time / torch.nn.LSTM's", native / times["torch lstm"], TORCH_LSTM)
        for _, peer, bar in (entry for entry in SPEED_UPS if entry[0] == size):
            what = f"{peer}'s time / time"
            yield Bar(size, case.threads, what, times[peer] / native, bar, least=True)
        own = case.errors["native"] / case.errors["eager"]
        yield most("error / training model's", own, OWN_ERROR)
    what = "call of one timestep / lstm operator's"
    yield Bar(str(chunk.size), 1, what, chunk.ratio, CHUNK, least=False)


def bars_table(found: Sequence[Bar]) -> Table:
    """Lay them out."""
    table = Table(title="to reach", box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for heading in ("N,T,D,H", "threads", "what", "measured", "bar", "met"):
        table.add_column(heading, justify="left" if heading in {"N,T,D,H", "what"} else "right")
    for bar in found:
        sign = ">=" if bar.least else "<="
        figures = (f"{bar.measured:.2f}", f"{sign} {bar.bar:g}", "yes" if bar.met else "NO")
        table.add_row(bar.size, str(bar.threads), bar.what, *figures)
    return table
