// The merge loops against the definition: again and again the pair of lowest rank, leftmost first.
#include "models/tokenizer/bpe.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

namespace qat {
namespace {

std::vector<int32_t> merge_by_definition(std::vector<int32_t> ids,
                                         const std::vector<MergeRule>& merges) {
  std::map<std::pair<int32_t, int32_t>, std::pair<size_t, int32_t>> table;
  for (size_t rank = 0; rank < merges.size(); ++rank)
    table[{merges[rank].left, merges[rank].right}] = {rank, merges[rank].id};
  while (true) {
    size_t best = ids.size(), rank = merges.size();
    int32_t id = -1;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      const auto found = table.find({ids[i], ids[i + 1]});
      if (found != table.end() && found->second.first < rank)
        best = i, rank = found->second.first, id = found->second.second;
    }
    if (id < 0) return ids;
    ids[best] = id;
    ids.erase(ids.begin() + ptrdiff_t(best) + 1);
  }
}

// A random vocabulary over a few letters, so that merges overlap, repeat and nest.
struct RandomModel {
  std::vector<std::string> pieces;
  std::vector<MergeRule> merges;

  explicit RandomModel(std::mt19937& random) {
    for (const char letter : {'a', 'b', 'c'}) pieces.emplace_back(1, letter);
    while (pieces.size() < 60) {
      const size_t left = random() % pieces.size(), right = random() % pieces.size();
      const std::string whole = pieces[left] + pieces[right];
      size_t id = 0;
      while (id < pieces.size() && pieces[id] != whole) ++id;
      if (id == pieces.size()) pieces.push_back(whole);
      merges.push_back({int32_t(left), int32_t(right), int32_t(id)});
    }
  }
  BpeModel build() const {
    Vocabulary vocabulary(pieces.size());
    for (size_t id = 0; id < pieces.size(); ++id) vocabulary.add(pieces[id], int64_t(id));
    return BpeModel(std::move(vocabulary), merges, {});
  }
};

TEST(Bpe, ShortAndLongWordsFollowTheDefinition) {
  std::mt19937 random(11);
  for (int round = 0; round < 60; ++round) {
    const RandomModel random_model(random);
    const BpeModel model = random_model.build();
    BpeModel::Scratch scratch;
    for (const size_t length : {1, 2, 3, 7, 20, 40, 41, 90, 400}) {
      std::string word;
      std::vector<int32_t> symbols;
      for (size_t i = 0; i < length; ++i) {
        symbols.push_back(int32_t(random() % 3));
        word += char('a' + symbols.back());
      }
      // A pair listed twice keeps the later rank, in the map above as in the model.
      std::vector<int32_t> ids;
      model.encode(word, scratch, ids);
      ASSERT_EQ(ids, merge_by_definition(symbols, random_model.merges)) << word;
    }
  }
}

TEST(Bpe, SelfMergesEnd) {
  Vocabulary vocabulary(3);
  vocabulary.add("a", 0);
  vocabulary.add("aa", 1);
  vocabulary.add("aaaa", 2);
  const BpeModel model(std::move(vocabulary), {{0, 0, 1}, {1, 1, 2}}, {});
  BpeModel::Scratch scratch;
  std::vector<int32_t> ids;
  model.encode(std::string(7, 'a'), scratch, ids);
  EXPECT_EQ(ids, (std::vector<int32_t>{2, 1, 0}));
}

TEST(Bpe, LongWordsTakeLinearithmicTime) {
  Vocabulary vocabulary(3);
  vocabulary.add("a", 0);
  vocabulary.add("aa", 1);
  vocabulary.add("aaaa", 2);
  const BpeModel model(std::move(vocabulary), {{0, 0, 1}, {1, 1, 2}}, {});
  BpeModel::Scratch scratch;
  std::vector<int32_t> ids;
  // Quadratic rescanning of this word would take hours.
  model.encode(std::string(size_t(1) << 21, 'a'), scratch, ids);
  EXPECT_EQ(ids.size(), size_t(1) << 19);
}

TEST(Bpe, UnknownBytesVanishOrBecomeTheUnknownToken) {
  for (const bool known : {false, true}) {
    Vocabulary vocabulary(2);
    vocabulary.add("a", 0);
    vocabulary.add("?", 1);
    BpeOptions options;
    if (known) options.unknown_id = 1;
    const BpeModel model(std::move(vocabulary), {}, options);
    BpeModel::Scratch scratch;
    std::vector<int32_t> ids;
    model.encode("abba", scratch, ids);
    EXPECT_EQ(ids, known ? (std::vector<int32_t>{0, 1, 1, 0}) : (std::vector<int32_t>{0, 0}));
  }
}

}  // namespace
}  // namespace qat
