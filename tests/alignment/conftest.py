from tests.evaluation.test_judge import endpoint  # noqa: F401
