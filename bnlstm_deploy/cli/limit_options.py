"""Options for the limits of a server; their defaults are those of `bnlstm_deploy.serve.Limits`."""

from typing import Annotated

import typer

PANEL = "Limits"

MaxBatch = Annotated[int, typer.Option(min=1, help="Streams in one run.", rich_help_panel=PANEL)]
MaxWait = Annotated[
    float,
    typer.Option(min=0, help="Seconds that a request waits for others.", rich_help_panel=PANEL),
]
MaxQueue = Annotated[
    int,
    typer.Option(
        min=1, help="Requests waiting; one more is refused with 503.", rich_help_panel=PANEL
    ),
]
MaxTime = Annotated[int, typer.Option(min=1, help="Timesteps of a request.", rich_help_panel=PANEL)]
Timeout = Annotated[float, typer.Option(min=0, help="Seconds to an answer.", rich_help_panel=PANEL)]
MaxSequences = Annotated[
    int, typer.Option(min=0, help="Sequences that are held.", rich_help_panel=PANEL)
]
SequenceIdle = Annotated[
    float,
    typer.Option(
        min=0, help="Seconds without a chunk until one is dropped.", rich_help_panel=PANEL
    ),
]
MaxBody = Annotated[int, typer.Option(min=1, help="Bytes of a request.", rich_help_panel=PANEL)]
