// A whole step of a model in one call: the next tokens of several sequences, through all layers.
//
//   x = embedding;  for each layer:  x += W_o attention(W_qkv norm(x));
//                                    x += W_down (act(W_gate norm(x)) * W_up norm(x));
//   logits = W_head norm(x)
//
// where the rows of an adapter add their low-rank part to each W of a layer (lora.h).
//
// Every member of the pool runs the same function, a chain of phases (pool.h): products, whose items
// are columns of the result, and attention. Few rows of x are normalised and quantized by each
// member for itself before its first item, which costs less than a phase; many are a phase of their
// own. Activations are float32 between products.
#pragma once

#include "gate.h"
#include "lora.h"
#include "paged_attention.h"
#include "pool.h"

namespace PUNA_TIER {

constexpr int64_t OWN_ROWS = 4;  // so many rows each member takes in for itself
constexpr int MOST_MEMBERS = 256;

// Of weights, about: several tiles, or a member would begin a new place in memory with each.
constexpr int64_t ITEM_BYTES = 1 << 19;
constexpr int64_t LAYER_PHASES = 14, OTHER_PHASES = 4;

// The matrices of a layer, in the order of an adapter's updates.
enum Matrix : int64_t { QKV, ATTENTION_OUTPUT, GATE_UP, DOWN, LAYER_MATRICES };
constexpr int64_t NO_LAYER = -1;  // in place of a matrix: no adapter has an update for it

// Part `i` of `count` things in `parts` parts.
struct Share {
  int64_t begin, end;
};
PUNA_INLINE Share share(int64_t count, int64_t i, int64_t parts) {
  return {count * i / parts, count * (i + 1) / parts};
}

// The memory of a step.
struct StepMemory {
  float* x;           // [tokens, width], the residual stream
  float* qkv;         // [tokens, (H + 2 K) C]
  float* attended;    // [tokens, H C]
  float* hidden;      // [tokens, F]
  float* normalised;  // [members, width]
  InputMemory inputs[MOST_MEMBERS];  // all rows are in the first where they are shared out
  Adapted adapted;
  char* attention;      // of each member
  char* plan;
  puna::Phase* phases;
};

PUNA_INLINE paged::Shape heads_of(const PunaModel& model) {
  return {model.heads, model.kv_heads, model.head_width, model.block_size, model.score_scale};
}

// visit(an entry) of a cache in this format.
template <class Visit>
PUNA_INLINE auto with_cache_entry(int32_t format, Visit visit) {
  if (format == PUNA_INT8) return visit(int8_t{});
  if (format == PUNA_BFLOAT16) return visit(bf16{});
  return visit(float{});
}

// Bytes of a member's memory for attention.
PUNA_INLINE int64_t attention_scratch(const PunaModel& model) {
  const paged::Shape shape = heads_of(model);
  return with_cache_entry(model.cache_format, [&](auto entry) {
    const int64_t write = paged::write_scratch<decltype(entry)>(shape);
    const int64_t attend = paged::attend_scratch<decltype(entry)>(shape);
    return in_lines(write > attend ? write : attend);
  });
}

PUNA_INLINE int64_t phases_of(const PunaModel& model) {
  return model.layers * LAYER_PHASES + OTHER_PHASES;
}

// Laid out from an address; nothing is written there.
PUNA_INLINE StepMemory take_step_memory(Scratch& scratch, const PunaModel& model,
                                        const PunaStep& step, int members) {
  int64_t widest = model.width;
  for (const int64_t columns : {model.heads * model.head_width, model.hidden})
    if (columns > widest) widest = columns;
  StepMemory memory;
  memory.x = scratch.take<float>(step.tokens * model.width);
  memory.qkv = scratch.take<float>(step.tokens * (model.heads + 2 * model.kv_heads) *
                                   model.head_width);
  memory.attended = scratch.take<float>(step.tokens * model.heads * model.head_width);
  memory.hidden = scratch.take<float>(step.tokens * model.hidden);
  memory.normalised = scratch.take<float>(members * model.width);
  memory.adapted = take_adapted(scratch, step);
  memory.phases = scratch.take<puna::Phase>(phases_of(model));
  const paged::Shape shape = heads_of(model);
  memory.attention = scratch.take<char>(members * attention_scratch(model));
  memory.plan = scratch.take<char>(paged::plan_bytes(shape, step.chunk, step.chunks, members));
  for (int member = 0; member < members; member++)
    memory.inputs[member] =
        take_memory(scratch, member ? smaller(step.tokens, OWN_ROWS) : step.tokens, widest);
  return memory;
}

struct Step {
  PunaPool* pool;
  const PunaModel& model;
  const PunaStep& step;
  StepMemory memory;
  paged::Plan plan;
};

// A member on its way through a step.
struct Member {
  const Step& work;
  int number;
  int64_t phase = 0;

  template <class Work>
  void share_phase(int64_t items, Work take) {
    puna::share_phase(work.pool, work.memory.phases[phase++], items, take);
  }
};

// A x of the rows that have an adapter, a phase where one updates this matrix.
template <class Row>
static void project_rows(Member& member, int64_t matrix, Row row) {
  const Adapted& adapted = member.work.memory.adapted;
  if (const int64_t panels = panels_of_updates(adapted, matrix))
    member.share_phase(adapted.count * panels, [&](int64_t item) {
      project(adapted, matrix, adapted.tiles[item / panels], item % panels,
              member.work.memory.inputs[member.number], row);
    });
}

// W times rows of x, the i-th of which row(i) gives in float32, as one phase or more. matrix: its
// number in all layers, for the updates of adapters. An item is a number of whole `units` of
// panels; take is as for product_with.
template <class Row, class Take>
static void multiply(Member& member, const PunaLinear& w, int64_t matrix, int64_t rows,
                     int64_t units, int64_t unit_panels, Row row, Take take) {
  const Step& work = member.work;
  const Adapted& adapted = work.memory.adapted;
  const bool updates = adapted.ranks > 0 && matrix != NO_LAYER;
  if (updates) project_rows(member, matrix, row);
  const auto take_updated = [&](int64_t first, int count, int64_t panel, int panels, float* sums,
                                int64_t stride) {
    if (updates) add_updates(adapted, matrix, first, count, panel, panels, sums, stride);
    take(first, count, panel, panels, sums, stride);
  };
  const bool own = rows <= OWN_ROWS;
  InputMemory memory = work.memory.inputs[own ? member.number : 0];
  memory.row = work.memory.inputs[member.number].row;
  const auto take_rows = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < smaller(end, rows); i++)
      take_input(w, row(i), i, rows, work.model.input_levels, memory);
  };
  const int64_t width = tile_width(w, rows);
  if (!own)  // whole tiles, so that no two members write one cache line
    member.share_phase((rows + width - 1) / width, [&](int64_t tile) {
      take_rows(tile * width, (tile + 1) * width);
    });
  const int64_t members = puna::members(work.pool);
  const int64_t bytes = panels_of(w) * LANES * units_of(w) * 4 / (w.format == PUNA_INT4 ? 2 : 1);
  int64_t items = (bytes / (members * ITEM_BYTES) + 1) * members;
  if (items > units) items = units;
  bool taken = !own;
  member.share_phase(items, [&](int64_t item) {
    if (!taken) take_rows(0, rows);
    taken = true;
    const Share part = share(units, item, items);
    product_with(w, inputs_in(w, rows, memory), rows, part.begin * unit_panels,
                 smaller(part.end * unit_panels, panels_of(w)), take_updated);
  });
}

// RMSNorm of a row into the member's own memory.
PUNA_INLINE const float* normalised(const Member& member, const float* x, const float* weight) {
  const Step& work = member.work;
  const int64_t width = work.model.width;
  float* y = work.memory.normalised + member.number * width;
  F32 squares = zero();
  for (int64_t i = 0; i < width; i += LANES) {
    const F32 value = load(x + i, left(width, i));
    squares = fma(value, value, squares);
  }
  const F32 scale = broadcast(1.0f / std::sqrt(sum(squares) / float(width) + work.model.eps));
  for (int64_t i = 0; i < width; i += LANES) {
    const int n = left(width, i);
    store(y + i, load(x + i, n) * scale * load(weight + i, n), n);
  }
  return y;
}

// y[row, :] = act(gate) * up, of panels that take turns.
template <class Activation>
static void gated(const float* sums, int64_t stride, int rows, int panels, int64_t columns,
                  int64_t column, float* y) {
  for (int i = 0; i < rows; i++)
    for (int j = 0; j < panels; j += 2) {
      const int n = left(columns, column + j / 2 * LANES);
      F32 opened, slope;
      Activation::at(load(sums + i * stride + j * LANES), opened, slope);
      store(y + i * columns + column + j / 2 * LANES,
            opened * load(sums + i * stride + (j + 1) * LANES), n);
    }
}
using Gated = void (*)(const float*, int64_t, int, int, int64_t, int64_t, float*);
PUNA_INLINE Gated gated_by(int activation) {
  constexpr Gated bodies[] = {gated<Silu>, gated<Sigmoid>, gated<Relu>, gated<Identity>,
                              gated<Gelu>};
  return bodies[activation];
}

template <class T>
static void attention_half(Member& member, int64_t index) {
  const Step& work = member.work;
  const PunaModel& model = work.model;
  const PunaLayer& layer = model.layer[index];
  const PunaStep& step = work.step;
  const paged::Shape shape = heads_of(model);
  const Rotary rotary{model.cos, model.sin, model.rotary_half};
  const paged::Layer<T> cache{static_cast<T*>(layer.keys), static_cast<T*>(layer.values)};
  char* room = work.memory.attention + member.number * attention_scratch(model);
  multiply(
      member, layer.qkv, index * LAYER_MATRICES + QKV, step.tokens, panels_of(layer.qkv), 1,
      [&](int64_t i) {
        return normalised(member, work.memory.x + i * model.width, layer.attention_norm);
      },
      Into{work.memory.qkv, (model.heads + 2 * model.kv_heads) * model.head_width, false});
  member.share_phase(step.chunks * model.kv_heads, [&](int64_t item) {
    const PunaChunk& chunk = step.chunk[item / model.kv_heads];
    paged::write(shape, cache, rotary, chunk, item % model.kv_heads, 0, chunk.count,
                 work.memory.qkv, Scratch{room});
  });
  const paged::Pass<T> pass{shape, cache, rotary, work.memory.qkv, work.memory.attended};
  member.share_phase(work.plan.count,
                     [&](int64_t item) { paged::attend(pass, work.plan.items[item], room); });
  multiply(
      member, layer.attention_output, index * LAYER_MATRICES + ATTENTION_OUTPUT, step.tokens,
      panels_of(layer.attention_output), 1,
      [&](int64_t i) { return work.memory.attended + i * layer.attention_output.columns; },
      Into{work.memory.x, model.width, true});
}

static void feed_forward_half(Member& member, int64_t index) {
  const Step& work = member.work;
  const PunaModel& model = work.model;
  const PunaLayer& layer = model.layer[index];
  const int64_t tokens = work.step.tokens, hidden = model.hidden;
  const Gated gate = gated_by(model.activation);
  multiply(
      member, layer.gate_up, index * LAYER_MATRICES + GATE_UP, tokens,
      panels_of(layer.gate_up) / 2, 2,
      [&](int64_t i) {
        return normalised(member, work.memory.x + i * model.width, layer.feed_forward_norm);
      },
      [&](int64_t row, int rows, int64_t panel, int panels, const float* sums, int64_t stride) {
        gate(sums, stride, rows, panels, hidden, panel / 2 * LANES,
             work.memory.hidden + row * hidden);
      });
  multiply(
      member, layer.down, index * LAYER_MATRICES + DOWN, tokens, panels_of(layer.down), 1,
      [&](int64_t i) { return work.memory.hidden + i * hidden; },
      Into{work.memory.x, model.width, true});
}

static void output_layer(Member& member) {
  const Step& work = member.work;
  const PunaModel& model = work.model;
  const PunaStep& step = work.step;
  const auto final_row = [&](int64_t i) {
    return normalised(member, work.memory.x + i * model.width, model.norm);
  };
  if (step.states != nullptr)
    member.share_phase(step.tokens, [&](int64_t i) {
      std::memcpy(step.states + i * model.width, final_row(i),
                  size_t(model.width) * sizeof(float));
    });
  if (step.wanted == 0) return;
  multiply(
      member, model.head, NO_LAYER, step.wanted, (step.vocabulary + LANES - 1) / LANES, 1,
      [&](int64_t i) { return final_row(step.rows[i]); },
      Into{step.logits, step.vocabulary, false});
}

static void step_of(void* data, int number) {
  const Step& work = *static_cast<const Step*>(data);
  const PunaModel& model = work.model;
  Member member{work, number};
  member.share_phase(work.step.tokens, [&](int64_t i) {
    float* x = work.memory.x + i * model.width;
    weights_of_row(model.embedding, work.step.ids[i], x);
    for (int64_t j = 0; j < model.width; j++) x[j] *= model.embedding_scale;
  });
  for (int64_t l = 0; l < model.layers; l++) {
    with_cache_entry(model.cache_format,
                     [&](auto entry) { attention_half<decltype(entry)>(member, l); });
    feed_forward_half(member, l);
  }
  output_layer(member);
}

}  // namespace PUNA_TIER
