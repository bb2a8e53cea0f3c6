"""Tasks by which models are compared: documents, prompts with solved examples, scores."""
