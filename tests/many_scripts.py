"""A text of twenty scripts and of what breaks tokenizers: joined emoji, tabs, CRLF, runs of spaces,
control characters. For comparing ids with another implementation's.
"""

SCRIPTS = (
    "The llama's wool isn't 12345 kg; HE'LL say: \u201cyes\u201d \u2026",
    "\u0395\u03bb\u03bb\u03b7\u03bd\u03b9\u03ba\u03cc \u03ba\u03b5\u03af\u03bc\u03b5\u03bd\u03bf",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u0401\u0436",
    "\u0540\u0561\u0575\u0565\u0580\u0565\u0576",
    "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645 \u0661\u0662\u0663",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e \u0967\u0968",
    "\u09ac\u09be\u0982\u09b2\u09be \u09b2\u09c7\u0996\u09be",
    "\u0a2a\u0a70\u0a1c\u0a3e\u0a2c\u0a40",
    "\u0ba4\u0bae\u0bbf\u0bb4\u0bcd",
    "\u0c24\u0c46\u0c32\u0c41\u0c17\u0c41",
    "\u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22",
    "\u0ea5\u0eb2\u0ea7",
    "\u0f56\u0f7c\u0f51\u0f0b\u0f61\u0f72\u0f42",
    "\u1019\u103c\u1014\u103a\u1019\u102c",
    "\u10e5\u10d0\u10e0\u10d7\u10e3\u10da\u10d8",
    "\u12a0\u121b\u122d\u129b",
    "\u1781\u17d2\u1798\u17c2\u179a",
    "\u3053\u3093\u306b\u3061\u306f\u4e16\u754c\u3002\u30ab\u30bf\u30ab\u30ca",
    "\ud55c\uad6d\uc5b4 \ubb38\uc7a5\uc785\ub2c8\ub2e4",
    "\u4eba\u4eba\u751f\u800c\u81ea\u7531\uff0c\u5728\u5c0a\u4e25\u548c\u6743\u5229\u4e0a",
    "\U00010330\U00010339\U00010344 \U00012000\U00012001",
)
"""A line of each script: Latin, Greek, Cyrillic, Armenian, Hebrew, Arabic, Devanagari, Bengali,
Gurmukhi, Tamil, Telugu, Thai, Lao, Tibetan, Myanmar, Georgian, Ethiopic, Khmer, Japanese, Hangul,
Han, and two outside the basic plane.
"""

ODDITIES = (
    "\U0001f469\u200d\U0001f469\u200d\U0001f466\U0001f999\U0001f1f5\U0001f1ea\U0001f44d\U0001f3fd",
    "tab\there\r\nand\r\n\r\nlines\n\n\n\nend",
    "many" + " " * 200 + "spaces",
    "\x01\x02\x07\x0b\x0c\x1b\x7f\x85\xa0\u2028\ufeff",
    "caf\u00e9 cafe\u0301 \ufb01 \u2460 \u212b \u0130\u0131\u1e9e",
    "\tindented  twice   thrice",
    "<s> </s> <unk> <0x0A> <|endoftext|> [CLS]",
    "2024-11-28T17:37:05Z 3.14159 1,000,000 0xFF",
    "trailing ",
)

TEXTS = (*SCRIPTS, *ODDITIES, "\n".join((*SCRIPTS, *ODDITIES)), "a", "")
"""Every line, all of them as one text, and the shortest."""
