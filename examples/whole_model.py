"""A model of one's own around the layers, trained for a step, exported and verified."""

import torch

from bnlstm_deploy import BNLSTM, export, recalibrate, sample_like, verify


class Tagger(torch.nn.Module):
    """Embeds tokens, and gives each a score for each of three tags."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(50, 8)
        self.rnn = BNLSTM(8, 16, batch_first=True, max_length=12)
        self.tag = torch.nn.Linear(16, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return (N, T, 3) of tokens (N, T)."""
        output, _ = self.rnn(self.embed(tokens))
        scores: torch.Tensor = self.tag(output)
        return scores


torch.manual_seed(0)
model = Tagger()
tokens, tags = torch.randint(50, (32, 12)), torch.randint(3, (32, 12))
optimizer = torch.optim.Adam(model.parameters())
for _ in range(5):
    loss = torch.nn.functional.cross_entropy(model(tokens).transpose(1, 2), tags)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

recalibrate(model, [tokens])
export(model.eval(), "tagger.onnx", (tokens,), force=True)
report = verify(model, "tagger.onnx", sample=sample_like(model, [tokens]))
assert report.passed, report
print(f"tagger.onnx: {report.ratio:.2f} times its own float32 error")
