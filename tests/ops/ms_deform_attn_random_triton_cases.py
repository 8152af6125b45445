"""Random calls of attention in Triton's interpreter; ``test_triton.py`` runs this file in a process of its own."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .strategies import attention_calls
from .test_ms_deform_attn_properties import check

assert os.environ.get("TRITON_INTERPRET") == "1", "run this file with TRITON_INTERPRET=1"


@pytest.mark.filterwarnings("ignore:.* encountered in multiply")  # of a far location and its level's size
@pytest.mark.slow
@settings(max_examples=100)
@given(inputs=attention_calls(), softmax=st.booleans())
def test_random_calls(inputs, softmax):
    check("triton", inputs, softmax)
