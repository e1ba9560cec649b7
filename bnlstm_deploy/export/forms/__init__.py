"""The graph forms: each writes a body for `bnlstm::BNLSTM` in standard ONNX operators."""
