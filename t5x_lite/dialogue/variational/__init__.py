"""Latent variables of utterances and dialogues, by variational inference."""
