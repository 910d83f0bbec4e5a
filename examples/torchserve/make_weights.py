"""Writes weights for the two small models of this folder: `python make_weights.py`. They are not trained on anything."""

import json
from pathlib import Path

import torch
from colours_model import Colours
from topics_model import Topics

WORDS = ["the", "a", "court", "judge", "law", "match", "team", "goal", "player", "star", "planet", "light", "galaxy"]
HERE = Path(__file__).parent

torch.manual_seed(0)
torch.save(Colours().state_dict(), HERE / "colours.pth")
torch.save(Topics().state_dict(), HERE / "topics.pth")
(HERE / "words.json").write_text(json.dumps({word: number for number, word in enumerate(WORDS, start=2)}))
