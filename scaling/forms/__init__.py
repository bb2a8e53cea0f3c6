"""Forms of laws beside L(N, D): what `t5x-lite scaling fit --form` fits."""
