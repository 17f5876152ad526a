// What the callers of a step give by structure: ctypes has the same ones in
// puna/native/model_runner.py. Arrays are dense; pointers that a model has no use for are null.
#pragma once

#include <cstdint>

extern "C" {

enum PunaFormat : int32_t { PUNA_FLOAT32, PUNA_BFLOAT16, PUNA_INT8, PUNA_INT4 };

// A matrix W [rows, columns] as linear.h lays it out.
struct PunaLinear {
  const void* weights;
  const void* scales;
  int64_t rows, columns;
  int32_t format;
  int32_t group;  // columns that a scale holds for; 0: the whole row
};

struct PunaLayer {
  const float* attention_norm;
  PunaLinear qkv;  // query heads, key heads, value heads
  PunaLinear attention_output;
  const float* feed_forward_norm;
  PunaLinear gate_up;  // a panel of the gate's rows, one of the other's, and so on
  PunaLinear down;
  void* keys;  // of the cache, in its format (paged_cache.h)
  void* values;
};

struct PunaModel {
  int64_t width, heads, kv_heads, head_width, hidden, layers;
  float eps, score_scale, embedding_scale;
  int32_t activation;  // as in gate.h
  int64_t rotary_half;
  const float* cos;  // [positions, rotary_half]
  const float* sin;
  PunaLinear embedding;  // [vocabulary, width]
  PunaLinear head;
  const float* norm;
  const PunaLayer* layer;
  int64_t block_size;   // tokens in a block of the cache
  int32_t cache_format;  // PUNA_FLOAT32, PUNA_BFLOAT16 or PUNA_INT8
  float input_levels;   // the largest code of 8-bit weights' inputs; 0: the tier's own
};

// The ranks that a panel of W is added to by, and where its part of B begins.
struct PunaRanks {
  int32_t begin, end;
  int64_t at;
};

// The update of one matrix by an adapter: y += B (A x).
struct PunaUpdate {
  PunaLinear a;            // float32 [ranks, columns of W]; without rows where W has no update
  const float* b;          // by panel of W: [its ranks][LANES], the scale in them
  const PunaRanks* panel;  // [panels of W]
};

struct PunaAdapter {
  int64_t ranks;             // the most that one of its matrices has
  const PunaUpdate* update;  // [layers][4]: qkv, attention_output, gate_up, down
};

// The next tokens of one sequence.
struct PunaChunk {
  int64_t start, count;   // `count` tokens from position `start`
  int64_t token;          // the index of the first in the step
  const int32_t* blocks;  // of the sequence, in order
  const PunaAdapter* adapter = nullptr;  // null: the model as it is
};

struct PunaStep {
  int64_t tokens, chunks, wanted;
  const int64_t* ids;        // [tokens]
  const PunaChunk* chunk;
  const int64_t* rows;  // [wanted]: the tokens whose logits are wanted
  int64_t vocabulary;   // columns of the logits: the first rows of the head
  float* logits;        // [wanted, vocabulary]
  float* states;        // the normalised hidden states [tokens, width], or null
};
}
