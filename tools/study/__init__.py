"""Which normalizations of a BN-LSTM earn their place: experiments, their results, their figures."""
