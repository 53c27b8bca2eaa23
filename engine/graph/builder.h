// The eager-looking face of the graph: each call appends one node and gives back its value. Shapes
// are checked at the call, so a mistake is reported at the model's own line.
#pragma once

#include <any>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/graph/graph.h"

namespace qat {

class Builder {
 public:
  explicit Builder(Graph& graph) : graph_(&graph) {}

  Graph& graph() { return *graph_; }
  const Value& value(Id id) const { return graph_->value(id); }

  /// The value of that name, made at the first call. Throws Error(internal) on another shape or
  /// dtype.
  Id input(const std::string& name, Shape shape, DType dtype);
  Id param(const std::string& name, Shape shape, DType dtype);
  Id state(const std::string& name, Shape shape, DType dtype);

  /// Appends a node; its outputs are new activations.
  struct Out {
    Shape shape;
    DType dtype;
  };
  std::vector<Id> append(const Op& op, std::vector<Id> inputs, const std::vector<Out>& outputs,
                         std::any attributes = {});

  /// Throws Error(internal) "[op] at PATH: what" unless the condition holds.
  void check(bool condition, std::string_view op, std::string_view what) const;

  /// Where new nodes belong.
  struct Place {
    std::string path;
    int layer = -1;
    bool backward = false;
  };
  Place place;

  /// Extends the path for a block of calls and restores it after.
  class Scope {
   public:
    Scope(Builder& builder, const std::string& name) : builder_(builder), saved_(builder.place) {
      builder.place.path += (builder.place.path.empty() ? "" : ".") + name;
    }
    Scope(Builder& builder, const std::string& name, int layer) : Scope(builder, name) {
      builder.place.layer = layer;
    }
    ~Scope() { builder_.place = std::move(saved_); }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Builder& builder_;
    Place saved_;
  };

 private:
  Id named(const std::string& name, Shape shape, DType dtype, Kind kind);
  Graph* graph_;
};

}  // namespace qat
