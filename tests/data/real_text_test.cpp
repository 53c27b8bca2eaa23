// The whole way with a real tokenizer and real text: from files to rows and windows, and back to
// text.
#include <algorithm>

#include "engine/data/dataset.h"
#include "engine/data/eval_windows.h"
#include "models/tokenizer/tokenizer.h"
#include "tests/data/toy.h"

namespace qat {
namespace {

class RealText : public ::testing::Test {
 protected:
  void SetUp() override {
    data_ = toy::real_data();
    if (data_.empty()) GTEST_SKIP() << "QAT_TEST_DATA is not set";
    tokenizer_ = Tokenizer::open(data_ + "/stories260k");
    options_.encoder.encode = [this](std::string_view text) {
      ++encoded_;
      return tokenizer_->encode(text);
    };
    options_.encoder.fingerprint = tokenizer_->fingerprint();
    options_.encoder.vocab_size = tokenizer_->vocab_size();
    options_.encoder.bos = tokenizer_->bos_id();
    options_.encoder.eos = tokenizer_->eos_id();
    options_.cache_directory = cache_.path();
  }

  std::vector<std::string> texts(const std::string& path) const {
    std::vector<std::string> all;
    read_documents(path, options_.read,
                   [&](Document&& document) { all.push_back(document.pieces[0].text); });
    return all;
  }

  std::string data_;
  std::unique_ptr<Tokenizer> tokenizer_;
  TokenizeOptions options_;
  toy::Folder cache_;
  int encoded_ = 0;
};

TEST_F(RealText, RowsHoldTheStories) {
  const std::string path = data_ + "/text/tinystories_valid.jsonl";
  const std::vector<std::string> stories = texts(path);
  ASSERT_EQ(stories.size(), 92u);
  Dataset data = Dataset::open({path}, options_, {.sequence = 256, .order = Order::as_stored});
  EXPECT_EQ(encoded_, 92);
  EXPECT_EQ(Dataset::open({path}, options_, {.sequence = 256}).sequences(), data.sequences());
  EXPECT_EQ(encoded_, 92);
  // All rows in order, joined, are the stories one after the other.
  std::vector<int32_t> ids;
  while (data.position().epoch == 0) {
    const Batch row = data.next(1);
    ids.insert(ids.end(), row.ids.begin(), row.ids.end());
  }
  ids.resize(data.summary().tokens);
  size_t story = 0;
  std::vector<int32_t> one;
  for (const int32_t id : ids) {
    if (one.empty()) {
      ASSERT_EQ(id, tokenizer_->bos_id());
    }
    one.push_back(id);
    if (id != tokenizer_->eos_id()) continue;
    ASSERT_LT(story, stories.size());
    EXPECT_EQ(tokenizer_->decode(one, true), stories[story]);
    ++story;
    one.clear();
  }
  EXPECT_EQ(story, stories.size());
}

TEST_F(RealText, TheAnswerAloneCounts) {
  options_.read.format = DataFormat::prompt_completion;
  options_.read.fields.prompt = "question";
  options_.read.fields.completion = "answer";
  options_.read.fields.separator.push_back('\n');
  const std::string path = data_ + "/sft/gsm8k_train.jsonl";
  int checked = 0;
  read_documents(path, options_.read, [&](Document&& document) {
    if (checked++ % 37 != 0) return;
    const EncodedDocument encoded =
        encode_document(document, options_.read.format, options_.encoder);
    const auto first = std::find(encoded.counted.begin(), encoded.counted.end(), 1);
    EXPECT_TRUE(std::all_of(first, encoded.counted.end(), [](uint8_t c) { return c == 1; }));
    const auto border = encoded.ids.begin() + (first - encoded.counted.begin());
    const std::string whole = tokenizer_->decode(encoded.ids, true);
    const std::string prompt = tokenizer_->decode({encoded.ids.begin(), border}, true);
    EXPECT_EQ(prompt, document.pieces[0].text);
    EXPECT_EQ(whole, document.pieces[0].text + document.pieces[1].text);
    EXPECT_EQ(encoded.ids.back(), tokenizer_->eos_id());
  });
  EXPECT_EQ(checked, 7473);
}

TEST_F(RealText, WindowsCoverTheTextInOrder) {
  const std::string path = data_ + "/text/tinystories_valid.jsonl";
  std::string joined;
  for (const std::string& story : texts(path)) {
    if (!joined.empty()) joined += "\n\n";
    joined += story;
  }
  const std::vector<int32_t> ids = tokenizer_->encode(joined);
  const auto windows = EvalWindows::open(path, options_, {.window = 512});
  ASSERT_EQ(windows.windows(), int64_t(ids.size() / 512));
  const Batch all = windows.rows(0, windows.windows());
  EXPECT_TRUE(std::equal(all.ids.begin(), all.ids.end(), ids.begin()));
  EXPECT_EQ(all.valid_targets, windows.windows() * 511);
}

TEST_F(RealText, ResumesBitForBitInTheThirdEpoch) {
  const std::string pattern = data_ + "/text/tinystories_*.jsonl";
  const DatasetOptions options{.sequence = 128, .seed = 9};
  Dataset straight = Dataset::open({pattern}, options_, options);
  Dataset first = straight;
  const int64_t rows = 48;
  const int64_t batches = int64_t(straight.sequences()) * 5 / 2 / rows;
  std::vector<Batch> expected;
  for (int64_t i = 0; i < batches; ++i) expected.push_back(straight.next(rows));
  ASSERT_EQ(straight.position().epoch, 2u);
  const int64_t stop = batches - 7;
  for (int64_t i = 0; i < stop; ++i) first.next(rows);
  Dataset resumed = Dataset::open({pattern}, options_, options);
  resumed.seek(first.position());
  for (int64_t i = stop; i < batches; ++i) {
    const Batch batch = resumed.next(rows);
    ASSERT_EQ(batch.ids, expected[size_t(i)].ids);
    ASSERT_EQ(batch.targets, expected[size_t(i)].targets);
    ASSERT_EQ(batch.first, expected[size_t(i)].first);
    ASSERT_EQ(batch.valid_targets, expected[size_t(i)].valid_targets);
  }
}

}  // namespace
}  // namespace qat
