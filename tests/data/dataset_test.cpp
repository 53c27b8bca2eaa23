// Training sequences: what a row holds, order, ranks, resume.
#include "engine/data/dataset.h"

#include <algorithm>
#include <set>

#include "engine/data/shuffle.h"
#include "tests/data/toy.h"

namespace qat {
namespace {

using toy::Folder;
using toy::refusal;

TokenizeOptions in_memory(DataFormat format = DataFormat::automatic) {
  TokenizeOptions options;
  options.encoder = toy::encoder();
  options.read.format = format;
  return options;
}

bool same(const Batch& a, const Batch& b) {
  return a.rows == b.rows && a.sequence == b.sequence && a.ids == b.ids && a.targets == b.targets &&
         a.positions == b.positions && a.first == b.first && a.valid_targets == b.valid_targets &&
         a.samples == b.samples;
}

std::vector<int32_t> row_of(const std::vector<int32_t>& values, const Batch& batch, int64_t row) {
  return {values.begin() + row * batch.sequence, values.begin() + (row + 1) * batch.sequence};
}

using Ids = std::vector<int32_t>;

TEST(Dataset, PackedTextRow) {
  const Folder folder;
  // Documents "abc$" and "defghijk$" in rows of 6: abc$de fghijk $_____
  const std::string path =
      folder.write("a.jsonl", "{\"text\":\"abc\"}\n{\"text\":\"\"}\n{\"text\":\"defghijk\"}\n");
  Dataset data =
      Dataset::open({path}, in_memory(), {.sequence = 6, .order = Order::as_stored, .pad_id = 9});
  EXPECT_EQ(data.sequences(), 3u);
  EXPECT_EQ(data.summary().documents, 2u);
  EXPECT_EQ(data.summary().empty_documents, 1u);
  EXPECT_EQ(data.summary().padding, 5u);
  const Batch batch = data.next(2);
  EXPECT_EQ(row_of(batch.ids, batch, 0), (Ids{'a', 'b', 'c', toy::kEos, 'd', 'e'}));
  EXPECT_EQ(row_of(batch.targets, batch, 0), (Ids{'b', 'c', toy::kEos, -1, 'e', 'f'}));
  EXPECT_EQ(row_of(batch.positions, batch, 0), (Ids{0, 1, 2, 3, 0, 1}));
  EXPECT_EQ(row_of(batch.first, batch, 0), (Ids{0, 0, 0, 0, 4, 4}));
  EXPECT_EQ(row_of(batch.ids, batch, 1), (Ids{'f', 'g', 'h', 'i', 'j', 'k'}));
  EXPECT_EQ(row_of(batch.targets, batch, 1), (Ids{'g', 'h', 'i', 'j', 'k', toy::kEos}));
  EXPECT_EQ(row_of(batch.positions, batch, 1), (Ids{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(row_of(batch.first, batch, 1), Ids(6, 0));
  EXPECT_EQ(batch.valid_targets, 11);
  // The third row holds the end of a document only: nothing to predict, passed over.
  const Batch again = data.next(1);
  EXPECT_EQ(again.samples, std::vector<uint64_t>{0});
  EXPECT_EQ(data.skipped_samples(), 1u);
  EXPECT_EQ(data.position(), (DataPosition{1, 1}));
}

TEST(Dataset, UnpackedTextRows) {
  const Folder folder;
  const std::string path = folder.write("a.jsonl", "{\"text\":\"ab\"}\n{\"text\":\"cdefg\"}\n");
  Dataset data = Dataset::open(
      {path}, in_memory(),
      {.sequence = 4, .packing = Packing::off, .order = Order::as_stored, .pad_id = 9});
  ASSERT_EQ(data.sequences(), 3u);
  const Batch batch = data.next(3);
  EXPECT_EQ(batch.ids, (Ids{'a', 'b', toy::kEos, 9, 'c', 'd', 'e', 'f', 'g', toy::kEos, 9, 9}));
  EXPECT_EQ(batch.targets,
            (Ids{'b', toy::kEos, -1, -1, 'd', 'e', 'f', 'g', toy::kEos, -1, -1, -1}));
  EXPECT_EQ(batch.first, (Ids{0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 2, 3}));
  EXPECT_EQ(batch.positions, (Ids{0, 1, 2, 0, 0, 1, 2, 3, 0, 1, 0, 0}));
}

TEST(Dataset, MaskedDocumentsStayWholeAndShareRows) {
  const Folder folder;
  const auto record = [](const std::string& prompt, const std::string& completion) {
    return "{\"prompt\":\"" + prompt + "\",\"completion\":\"" + completion + "\"}\n";
  };
  // Lengths with eos: 6, 5, 2, 3, 12 (cut to 8, where no answer is left).
  const std::string path =
      folder.write("a.jsonl", record("abc", "de") + record("fg", "hi") + record("", "j") +
                                  record("k", "l") + record("mnopqrstu", "vw"));
  Dataset data = Dataset::open({path}, in_memory(DataFormat::prompt_completion),
                               {.sequence = 8, .order = Order::as_stored, .pad_id = 9});
  EXPECT_EQ(data.sequences(), 2u);
  EXPECT_EQ(data.summary().masked_documents, 5u);
  EXPECT_EQ(data.summary().truncated_documents, 1u);
  EXPECT_EQ(data.summary().unanswered_documents, 1u);
  EXPECT_EQ(data.summary().truncated_tokens, 12u);
  EXPECT_EQ(data.summary().padding, 0u);
  const Batch batch = data.next(2);
  EXPECT_EQ(row_of(batch.ids, batch, 0), (Ids{'a', 'b', 'c', 'd', 'e', toy::kEos, 'j', toy::kEos}));
  EXPECT_EQ(row_of(batch.targets, batch, 0), (Ids{-1, -1, 'd', 'e', toy::kEos, -1, toy::kEos, -1}));
  EXPECT_EQ(row_of(batch.first, batch, 0), (Ids{0, 0, 0, 0, 0, 0, 6, 6}));
  EXPECT_EQ(row_of(batch.ids, batch, 1), (Ids{'f', 'g', 'h', 'i', toy::kEos, 'k', 'l', toy::kEos}));
  EXPECT_EQ(row_of(batch.targets, batch, 1),
            (Ids{-1, 'h', 'i', toy::kEos, -1, 'l', toy::kEos, -1}));
  EXPECT_EQ(batch.valid_targets, 4 + 5);
}

TEST(Dataset, AnswersThatDoNotFitAreCounted) {
  const Folder folder;
  // In rows of 4: "abc" + "d$" loses its eos as an input only, "abcd" + "e$" is left one target,
  // "abcde" + "f$" none.
  const auto record = [](const std::string& prompt, const std::string& completion) {
    return "{\"prompt\":\"" + prompt + "\",\"completion\":\"" + completion + "\"}\n";
  };
  const std::string path =
      folder.write("a.jsonl", record("abc", "d") + record("abcd", "e") + record("abcde", "f"));
  Dataset data =
      Dataset::open({path}, in_memory(), {.sequence = 4, .order = Order::as_stored, .pad_id = 9});
  EXPECT_EQ(data.sequences(), 2u);
  EXPECT_EQ(data.summary().truncated_documents, 3u);
  EXPECT_EQ(data.summary().unanswered_documents, 1u);
  EXPECT_EQ(data.next(2).targets, (Ids{-1, -1, 'd', toy::kEos, -1, -1, -1, 'e'}));
  const std::string longer = folder.write("b.jsonl", record("abcde", "f"));
  EXPECT_NE(
      refusal([&] { Dataset::open({longer}, in_memory(), {.sequence = 4}); }).find("data.sequence"),
      std::string::npos);
}

TEST(Dataset, FilesOfEveryFormatInOneRun) {
  const Folder folder;
  const std::vector<std::string> paths = {
      folder.write("a.txt", "abc"),
      folder.write("b.jsonl", R"({"prompt": "de", "completion": "f"})"),
      folder.write("c.jsonl", R"({"messages": [{"role": "user", "content": "g"},)"
                              R"({"role": "assistant", "content": "hi"}]})"),
      folder.write("d.jsonl", R"({"text": "jk"})")};
  TokenizeOptions options = in_memory();
  options.read.renderer = [] { return toy::renderer(); };
  Dataset data = Dataset::open(
      paths, options,
      {.sequence = 24, .packing = Packing::off, .order = Order::as_stored, .pad_id = 9});
  const Batch batch = data.next(4);
  const auto counted = [&](int64_t row) {
    Ids ids = row_of(batch.targets, batch, row);
    std::erase(ids, -1);
    return ids;
  };
  EXPECT_EQ(counted(0), (Ids{'b', 'c', toy::kEos}));
  EXPECT_EQ(counted(1), (Ids{'f', toy::kEos}));
  EXPECT_EQ(counted(2), (Ids{'h', 'i'})) << "the template alone ends a conversation";
  EXPECT_EQ(counted(3), (Ids{'k', toy::kEos}));
  EXPECT_EQ(batch.valid_targets, 3 + 2 + 2 + 2);
}

TEST(Dataset, WhereNothingCountsItSaysSo) {
  const Folder folder;
  TokenizeOptions options = in_memory();
  options.encoder.eos = -1;
  const std::string path = folder.write("a.jsonl", "{\"text\":\"a\"}\n{\"text\":\"b\"}\n");
  Dataset data = Dataset::open({path}, options, {.sequence = 4});
  EXPECT_NE(refusal([&] { data.next(1); }).find("counts for the loss"), std::string::npos);
}

/// Two files of text, three epochs and more in small batches.
struct Files {
  Folder folder;
  std::vector<std::string> patterns;
  Files() {
    folder.write("a.jsonl", toy::jsonl(60));
    folder.write("b.jsonl", toy::jsonl(41, 1000));
    folder.write("c.txt", toy::sentence(5) + "\n" + toy::sentence(6));
    patterns = {folder / "*.jsonl", folder / "c.txt"};
  }
  Dataset open(Packing packing, uint64_t seed = 3, DataFormat = DataFormat::automatic) const {
    return Dataset::open(patterns, in_memory(), {.sequence = 32, .packing = packing, .seed = seed});
  }
};

TEST(Dataset, EveryTokenIsPredictedOnceAnEpoch) {
  const Files files;
  for (const Packing packing : {Packing::on, Packing::off}) {
    Dataset data = files.open(packing);
    std::vector<int> seen(data.sequences(), 0);
    uint64_t valid = 0;
    while (data.position().epoch == 0) {
      const Batch batch = data.next(1);
      ++seen[batch.samples[0]];
      valid += uint64_t(batch.valid_targets);
    }
    EXPECT_EQ(uint64_t(std::count(seen.begin(), seen.end(), 1)) + data.skipped_samples(),
              data.sequences());
    EXPECT_EQ(valid, data.summary().tokens - data.summary().documents);
  }
}

TEST(Dataset, ResumesBitForBitFromItsPosition) {
  const Files files;
  for (const Packing packing : {Packing::on, Packing::off}) {
    Dataset straight = files.open(packing);
    const int64_t rows = 7;
    const uint64_t batches = 3 * straight.sequences() / rows + 2;
    std::vector<Batch> expected;
    std::vector<DataPosition> positions;
    for (uint64_t i = 0; i < batches; ++i) {
      positions.push_back(straight.position());
      expected.push_back(straight.next(rows));
    }
    EXPECT_GE(straight.position().epoch, 3u);
    for (uint64_t k = 0; k < batches; k += 5) {
      Dataset resumed = files.open(packing);
      EXPECT_EQ(resumed.identity(), straight.identity());
      resumed.seek(positions[k]);
      for (uint64_t i = k; i < batches; ++i) {
        ASSERT_TRUE(same(resumed.next(rows), expected[i])) << "batch " << i << " after " << k;
      }
      EXPECT_EQ(resumed.position(), straight.position());
    }
  }
}

TEST(Dataset, AnyWorldSizeSeesTheSameRowsInTheSameOrder) {
  const Files files;
  Dataset whole = files.open(Packing::off);
  for (const int world : {2, 3, 6}) {
    whole.seek({});
    std::vector<Dataset> ranks(size_t(world), files.open(Packing::off));
    for (int step = 0; step < 30; ++step) {
      const Batch expected = whole.next(6);
      Batch joined = expected;
      joined.ids.clear();
      joined.targets.clear();
      for (int rank = 0; rank < world; ++rank) {
        const Batch part = ranks[size_t(rank)].next(6, {rank, world});
        EXPECT_EQ(part.rows, 6 / world);
        EXPECT_EQ(part.valid_targets, expected.valid_targets);
        EXPECT_EQ(part.samples, expected.samples);
        joined.ids.insert(joined.ids.end(), part.ids.begin(), part.ids.end());
        joined.targets.insert(joined.targets.end(), part.targets.begin(), part.targets.end());
        EXPECT_EQ(ranks[size_t(rank)].position(), whole.position());
      }
      ASSERT_TRUE(same(joined, expected));
    }
  }
  EXPECT_NE(refusal([&] { whole.next(6, {0, 4}); }).find("multiple of 4"), std::string::npos);
}

TEST(Dataset, SmallerThanABatchAndThanTheWorld) {
  const Folder folder;
  const std::string path = folder.write("a.txt", "tiny text");
  Dataset data = Dataset::open({path}, in_memory(), {.sequence = 64});
  EXPECT_EQ(data.sequences(), 1u);
  const Batch batch = data.next(16, {15, 16});
  EXPECT_EQ(batch.rows, 1);
  EXPECT_EQ(batch.valid_targets, 16 * 9);
  EXPECT_EQ(data.position(), (DataPosition{16, 0}));
}

TEST(Dataset, OrderFollowsSeedAndEpoch) {
  const Files files;
  const auto epoch = [](Dataset& data) {
    std::vector<uint64_t> samples;
    const uint64_t now = data.position().epoch;
    while (data.position().epoch == now) samples.push_back(data.next(1).samples[0]);
    return samples;
  };
  Dataset a = files.open(Packing::on, 1), b = files.open(Packing::on, 2);
  const auto first = epoch(a), second = epoch(a), other = epoch(b);
  EXPECT_NE(first, second);
  EXPECT_NE(first, other);
  EXPECT_FALSE(std::is_sorted(first.begin(), first.end()));
  a.seek({0, 0});
  EXPECT_EQ(epoch(a), first);
  EXPECT_NE(a.identity(), b.identity());
}

TEST(Dataset, AChangedFileHasAnotherIdentity) {
  const Files files;
  const uint64_t before = files.open(Packing::on).identity();
  std::string text = toy::jsonl(41, 1000);
  text[15] ^= 1;
  files.folder.write("b.jsonl", text);
  EXPECT_NE(files.open(Packing::on).identity(), before);
}

TEST(Dataset, APositionOutsideTheDataIsRefused) {
  const Files files;
  Dataset data = files.open(Packing::on);
  EXPECT_NE(refusal([&] { data.seek({0, data.sequences()}); }).find("outside"), std::string::npos);
}

TEST(Shuffle, IsABijectionOfEveryCount) {
  for (uint64_t count = 1; count < 300; ++count) {
    std::set<uint64_t> seen;
    for (uint64_t i = 0; i < count; ++i) seen.insert(shuffled(i, count, 11, count));
    ASSERT_EQ(seen.size(), count);
    ASSERT_LT(*seen.rbegin(), count);
  }
}

TEST(Shuffle, PlacesAreUniform) {
  // Where element 0..9 of 10 land over many epochs: chi square with 81 degrees of freedom.
  constexpr int kCount = 10, kEpochs = 20000;
  std::vector<int> hits(kCount * kCount, 0);
  for (uint64_t epoch = 0; epoch < kEpochs; ++epoch) {
    for (uint64_t i = 0; i < kCount; ++i) ++hits[i * kCount + shuffled(i, kCount, 5, epoch)];
  }
  double chi = 0;
  for (const int h : hits) chi += (h - 2000.0) * (h - 2000.0) / 2000.0;
  EXPECT_LT(chi, 140.0);
  EXPECT_GT(chi, 40.0);
}

TEST(Dataset, RealPairsCountTheAnswers) {
  if (toy::real_data().empty()) GTEST_SKIP() << "QAT_TEST_DATA is not set";
  TokenizeOptions options = in_memory(DataFormat::prompt_completion);
  options.read.fields.prompt = "question";
  options.read.fields.completion = "answer";
  options.read.fields.separator = "\n";
  Dataset data = Dataset::open({toy::real_data() + "/sft/gsm8k_train.jsonl"}, options,
                               {.sequence = 1024, .seed = 1});
  EXPECT_EQ(data.summary().documents, 7473u);
  // Whole documents in rows: next to nothing is padding.
  EXPECT_LT(double(data.summary().padding), 0.03 * double(data.sequences() * 1024));
  const Batch batch = data.next(16);
  // Every answer ends "#### <number>", and the answer alone is counted.
  for (int64_t t = 0; t < batch.sequence; ++t) {
    if (batch.ids[size_t(t)] != toy::kEos) continue;
    EXPECT_EQ(batch.targets[size_t(t)], -1);
    const int32_t begin = batch.first[size_t(t)];
    std::string counted, question;
    for (int32_t i = begin; i < int32_t(t); ++i) {
      const int32_t target = batch.targets[size_t(i)];
      if (target == -1) question += batch.ids[size_t(i)] < 256 ? char(batch.ids[size_t(i)]) : '?';
      if (target >= 0 && target < 256) counted += char(target);
    }
    EXPECT_NE(counted.find("#### "), std::string::npos) << counted;
    EXPECT_EQ(question.find("#### "), std::string::npos);
  }
}

}  // namespace
}  // namespace qat
