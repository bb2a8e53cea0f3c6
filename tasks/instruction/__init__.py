"""Instruction data: conversations of every public schema, chat templates, masks of answers.

Importing this loads no TensorFlow, so that gin can read it anywhere, and templates are rendered
without it.
"""
