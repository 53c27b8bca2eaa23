// Token files: what is written is read back, what is damaged is refused, what is stale is replaced.
#include "engine/data/token_cache.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "engine/data/token_layout.h"
#include "engine/data/tokenize.h"
#include "tests/data/toy.h"

namespace qat {
namespace {

using toy::Folder;
using toy::refusal;

TokenizeOptions options_in(const std::string& cache) {
  TokenizeOptions options;
  options.encoder = toy::encoder();
  options.cache_directory = cache;
  return options;
}

std::vector<int32_t> all_ids(const TokenFile& file) {
  std::vector<int32_t> ids(file.info().tokens);
  file.read(0, ids);
  return ids;
}

TEST(TokenCache, WritesAndReadsBackEveryWidth) {
  for (const int64_t vocab : {int64_t{65536}, int64_t{65537}, int64_t{1} << 31}) {
    for (const bool in_memory : {false, true}) {
      const Folder folder;
      TokenWriter writer(in_memory ? "" : folder / "x.tokens", vocab, LossMask::present);
      const int32_t top = int32_t(vocab - 1);
      writer.add(std::vector<int32_t>{1, top, 3}, std::vector<uint8_t>{0, 1, 1}, "d0");
      writer.add({}, {}, "d1");
      writer.add(std::vector<int32_t>{7}, std::vector<uint8_t>{1}, "d2");
      const TokenKey key{1, 2, {3, 4}};
      const auto written = writer.commit(key);
      const auto file = in_memory ? written : TokenFile::open(folder / "x.tokens", vocab);
      EXPECT_EQ(file->info().key, key);
      EXPECT_EQ(file->info().item_bytes, vocab <= 65536 ? 2u : 4u);
      EXPECT_EQ(file->info().empty_documents, 1u);
      EXPECT_EQ(file->info().highest_id, uint32_t(top));
      EXPECT_EQ(all_ids(*file), (std::vector<int32_t>{1, top, 3, 7}));
      std::vector<uint8_t> mask(3);
      file->read_mask(1, mask);
      EXPECT_EQ(mask, (std::vector<uint8_t>{1, 1, 1}));
      file->read_mask(0, mask);
      EXPECT_EQ(mask, (std::vector<uint8_t>{0, 1, 1}));
      ASSERT_EQ(file->document_ends().size(), 2u);
      EXPECT_EQ(file->document_ends()[0], 3u);
      EXPECT_EQ(file->document_ends()[1], 4u);
      EXPECT_EQ(folder.files(), in_memory ? 0u : 1u);
    }
  }
}

TEST(fault_E9, IdsOutsideTheVocabularyAreRefusedByDocument) {
  TokenWriter writer("", 10, LossMask::absent);
  EXPECT_NE(refusal([&] {
              writer.add(std::vector<int32_t>{1, 10}, {}, "f:3");
            }).find("f:3: token 1"),
            std::string::npos);
  refusal([&] { writer.add(std::vector<int32_t>{-1}, {}, "f:4"); });
}

TEST(TokenCache, AWriterWithoutCommitLeavesNothing) {
  const Folder folder;
  {
    TokenWriter writer(folder / "x.tokens", 10, LossMask::present);
    writer.add(std::vector<int32_t>{1}, std::vector<uint8_t>{1}, "d");
    EXPECT_EQ(folder.files(), 1u);
  }
  EXPECT_EQ(folder.files(), 0u);
}

TEST(TokenCache, LeftoversOfAKilledWriterGoThoseOfALivingOneStay) {
  const Folder folder;
  folder.write("x.tokens.tmp-1-dead", "torn");
  folder.write("other.tokens.tmp-1-dead", "torn");
  TokenWriter living(folder / "x.tokens", 10, LossMask::absent);
  EXPECT_EQ(folder.files(), 2u);
  TokenWriter second(folder / "x.tokens", 10, LossMask::absent);
  EXPECT_EQ(folder.files(), 3u);
  living.add(std::vector<int32_t>{1}, {}, "d");
  second.add(std::vector<int32_t>{2}, {}, "d");
  living.commit({});
  second.commit({});
  EXPECT_EQ(all_ids(*TokenFile::open(folder / "x.tokens", 10)), std::vector<int32_t>{2});
  EXPECT_EQ(folder.files(), 2u);
}

/// A token file with 40 tokens in three documents.
std::string good_file(const Folder& folder) {
  TokenWriter writer(folder / "good.bin", 300, LossMask::present);
  for (int32_t n : {25, 5, 10}) {
    writer.add(std::vector<int32_t>(size_t(n), 200 + n), std::vector<uint8_t>(size_t(n), 1), "d");
  }
  writer.commit({});
  return toy::content_of(folder / "good.bin");
}

TEST(fault_E9, EveryTruncationIsRefused) {
  const Folder folder;
  const std::string good = good_file(folder);
  for (size_t size = 0; size < good.size(); ++size) {
    const std::string path = folder.write("cut.bin", std::string_view(good).substr(0, size));
    EXPECT_NE(refusal([&] { TokenFile::open(path, 300); }).find("cut.bin"), std::string::npos);
  }
  const std::string longer = folder.write("cut.bin", good + "x");
  EXPECT_NE(refusal([&] { TokenFile::open(longer, 300); }).find("trailing"), std::string::npos);
}

TEST(fault_E9, EveryFlippedBitIsRefused) {
  const Folder folder;
  const std::string good = good_file(folder);
  for (size_t bit = 0; bit < 8 * good.size(); ++bit) {
    std::string bad = good;
    bad[bit / 8] = char(bad[bit / 8] ^ (1 << bit % 8));
    const std::string path = folder.write("flip.bin", bad);
    refusal([&] { TokenFile::open(path, 300); });
  }
}

TEST(fault_E9, AHostileHeaderWithRightChecksumsIsRefused) {
  const Folder folder;
  const std::string good = good_file(folder);
  const auto with = [&](auto change) {
    TokenHeader header;
    std::memcpy(&header, good.data(), sizeof header);
    change(header);
    header.header_checksum = checksum_of(header);
    std::string bad = good;
    std::memcpy(bad.data(), &header, sizeof header);
    const std::string path = folder.write("hostile.bin", bad);
    return refusal([&] { TokenFile::open(path, 300); });
  };
  for (const uint64_t huge : {uint64_t{0}, uint64_t{1} << 31, uint64_t{1} << 63, ~uint64_t{0}}) {
    with([&](TokenHeader& h) { h.tokens = huge; });
    with([&](TokenHeader& h) { h.documents = huge; });
  }
  with([](TokenHeader& h) { h.item_bytes = 3; });
  with([](TokenHeader& h) { h.item_bytes = 0; });
  with([](TokenHeader& h) { h.has_mask = 2; });
  EXPECT_NE(with([](TokenHeader& h) { h.version = 9; }).find("version 9"), std::string::npos);
  EXPECT_NE(refusal([&] { TokenFile::open(folder / "good.bin", 225); }).find("id 225"),
            std::string::npos);
}

TEST(fault_E9, WhatIsNoTokenFileIsRefusedAtOnce) {
  const Folder folder;
  const auto open = [&](const std::string& path) {
    return refusal([&] { open_tokens(path, options_in("")); });
  };
  EXPECT_NE(open(folder.write("empty.bin", "")).find("is empty"), std::string::npos);
  EXPECT_NE(open(folder.write("text.bin", std::string(500, 'x'))).find("not a token file"),
            std::string::npos);
  std::filesystem::create_directory(folder / "dir.bin");
  EXPECT_NE(open(folder / "dir.bin").find("directory"), std::string::npos);
  ASSERT_EQ(::mkfifo((folder / "pipe.bin").c_str(), 0600), 0);
  EXPECT_NE(open(folder / "pipe.bin").find("not a regular"), std::string::npos);
  EXPECT_NE(open(folder / "none.bin").find("No such file"), std::string::npos);
}

TEST(TokenCache, ATokenFileCanBeTheDataButNotOfAnotherTokenizer) {
  const Folder folder;
  const std::string text = folder.write("a.jsonl", toy::jsonl(20));
  TokenizeOptions options = options_in(folder / "cache");
  const auto written = write_tokens(text, options, Records::documents, folder / "corpus.bin");
  const auto opened = open_tokens(folder / "corpus.bin", options);
  EXPECT_EQ(all_ids(*opened), all_ids(*open_tokens(text, options)));
  options.encoder.fingerprint = 5;
  EXPECT_NE(refusal([&] { open_tokens(folder / "corpus.bin", options); }).find("another tokenizer"),
            std::string::npos);
}

TEST(TokenCache, EncodesOnceAndAgainOnlyWhenSomethingChanged) {
  const Folder folder;
  TokenizeOptions options = options_in(folder / "deep/cache");
  int calls = 0;
  options.encoder.encode = [&](std::string_view text) {
    ++calls;
    return toy::encode(text);
  };
  const std::string path = folder.write("a.jsonl", "{\"text\": \"the cat\"}\n{\"text\": \"\"}\n");
  const auto ids = [&] { return all_ids(*open_tokens(path, options)); };
  const std::vector<int32_t> expected = {toy::kMerged, 'e', ' ', 'c', 'a', 't', toy::kEos};
  EXPECT_EQ(ids(), expected);
  EXPECT_EQ(ids(), expected);
  EXPECT_EQ(calls, 1);
  options.encoder.eos = -1;
  EXPECT_EQ(ids().size(), 6u);
  EXPECT_EQ(calls, 2);
  options.encoder.bos = toy::kBos;
  EXPECT_EQ(ids().front(), toy::kBos);
  options.encoder.fingerprint = 99;
  ids();
  EXPECT_EQ(calls, 4);
  folder.write("a.jsonl", "{\"text\": \"a dog\"}\n");
  EXPECT_EQ(ids().size(), 6u);
  EXPECT_EQ(calls, 5);
  ids();
  EXPECT_EQ(calls, 5);
}

TEST(TokenCache, ADamagedEntryIsMadeAgain) {
  const Folder folder;
  const TokenizeOptions options = options_in(folder / "cache");
  const std::string path = folder.write("a.jsonl", toy::jsonl(50));
  const auto good = all_ids(*open_tokens(path, options));
  const std::string entry = std::filesystem::directory_iterator(folder / "cache")->path().string();
  std::filesystem::resize_file(entry, 200);
  EXPECT_EQ(all_ids(*open_tokens(path, options)), good);
  EXPECT_EQ(all_ids(*TokenFile::open(entry, 259)), good);
}

TEST(fault_E9, AFileTruncatedWhileInUseIsRefusedNotASignal) {
  const Folder folder;
  good_file(folder);
  const auto file = TokenFile::open(folder / "good.bin", 300);
  std::filesystem::resize_file(folder / "good.bin", 150);
  std::vector<int32_t> ids(40);
  EXPECT_NE(refusal([&] { file->read(0, ids); }).find("truncated while in use"), std::string::npos);
}

TEST(TokenCache, AFolderThatCannotBeWrittenIsNamed) {
  const Folder folder;
  const std::string path = folder.write("a.txt", "text");
  const std::string blocked = folder.write("file", "") + "/cache";
  EXPECT_NE(refusal([&] { open_tokens(path, options_in(blocked)); }, Exit::cannot_write)
                .find("file/cache"),
            std::string::npos);
}

TEST(TokenCache, AFullDiskIsNamedAndLeavesNothing) {
  const Folder folder;
  const std::string path = folder.write("a.txt", std::string(size_t{3} << 20, 'x'));
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit before;
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  for (const rlim_t limit : {rlim_t{0}, rlim_t{4096}, rlim_t{2} << 20, rlim_t{6} << 20}) {
    const rlimit small{limit, before.rlim_max};
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
    const std::string message =
        refusal([&] { open_tokens(path, options_in(folder / "cache")); }, Exit::cannot_write);
    ::setrlimit(RLIMIT_FSIZE, &before);
    EXPECT_NE(message.find("cache/a-"), std::string::npos) << message;
    EXPECT_TRUE(std::filesystem::is_empty(folder / "cache"));
  }
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(open_tokens(path, options_in(folder / "cache"))->info().tokens, (3u << 20) + 1);
}

TEST(TokenCache, AKilledBuildIsStartedAgain) {
  const Folder folder;
  const std::string path = folder.write("a.jsonl", toy::jsonl(300));
  const TokenizeOptions options = options_in(folder / "cache");
  const pid_t child = ::fork();
  if (child == 0) {
    TokenizeOptions dying = options;
    int documents = 0;
    dying.encoder.encode = [&](std::string_view text) {
      if (++documents == 200) ::kill(::getpid(), SIGKILL);
      return toy::encode(text);
    };
    open_tokens(path, dying);
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_FALSE(std::filesystem::is_empty(folder / "cache"));
  EXPECT_EQ(open_tokens(path, options)->info().documents, 300u);
  const auto entries = std::filesystem::directory_iterator(folder / "cache");
  EXPECT_EQ(std::distance(begin(entries), end(entries)), 1);
}

TEST(TokenCache, TextOfNothingIsRefused) {
  const Folder folder;
  for (const char* content : {"", "{\"text\": \"\"}\n"}) {
    const std::string path = folder.write("a.jsonl", content);
    EXPECT_NE(refusal([&] { open_tokens(path, options_in(folder / "cache")); }).find("no text"),
              std::string::npos);
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder / "cache"));
}

/// As GPT-2's pre-tokenizer: a run of newlines leaves its last one to what follows, if anything
/// does.
std::vector<int32_t> encode_runs(std::string_view text) {
  std::vector<int32_t> ids;
  for (size_t i = 0; i < text.size();) {
    size_t run = 0;
    while (i + run < text.size() && text[i + run] == '\n') ++run;
    if (run > 1) {
      if (i + run < text.size()) --run;
      ids.push_back(200 + int32_t(run));
    } else {
      ids.push_back(uint8_t(text[i]));
      run = 1;
    }
    i += run;
  }
  return ids;
}

TEST(TokenCache, PartsAtLineStartsGiveTheSameIds) {
  std::string text;
  for (uint64_t i = 0; text.size() < (size_t{9} << 20); ++i) {
    // The first places to cut behind 4 MiB are behind runs.
    text += toy::sentence(i) + std::string(i % 8 == 0 ? 1 : 2 + i % 3, '\n');
  }
  const Folder folder;
  const std::string path = folder.write("a.txt", text);
  TokenizeOptions options = options_in("");
  int calls = 0;
  options.encoder.splitting = Splitting::at_line_starts;
  options.encoder.encode = [&](std::string_view part) {
    ++calls;
    return encode_runs(part);
  };
  const auto parts = all_ids(*open_tokens(path, options));
  EXPECT_EQ(calls, 3);
  options.encoder.splitting = Splitting::whole;
  EXPECT_EQ(parts, all_ids(*open_tokens(path, options)));
  EXPECT_EQ(calls, 4);
}

TEST(EncodeDocument, CountsTheCompletionAndItsEnd) {
  const TextEncoder encoder = toy::encoder();
  const Document document{{{"q?", Loss::ignored}, {"th", Loss::counted}}, "here"};
  const auto encoded = encode_document(document, DataFormat::prompt_completion, encoder);
  EXPECT_EQ(encoded.ids, (std::vector<int32_t>{'q', '?', toy::kMerged, toy::kEos}));
  EXPECT_EQ(encoded.counted, (std::vector<uint8_t>{0, 0, 1, 1}));
}

TEST(EncodeDocument, ATokenOverTheBorderBelongsToTheCompletion) {
  TextEncoder encoder = toy::encoder();
  encoder.bos = toy::kBos;
  const Document document{{{"at", Loss::ignored}, {"h!", Loss::counted}}, "here"};
  const auto encoded = encode_document(document, DataFormat::prompt_completion, encoder);
  EXPECT_EQ(encoded.ids, (std::vector<int32_t>{toy::kBos, 'a', toy::kMerged, '!', toy::kEos}));
  EXPECT_EQ(encoded.counted, (std::vector<uint8_t>{0, 0, 1, 1, 1}));
}

TEST(EncodeDocument, EachAnswerOfAConversationCounts) {
  const Document document{{{"<u>", Loss::ignored},
                           {"hi", Loss::ignored},
                           {"<a>", Loss::ignored},
                           {"yo", Loss::counted},
                           {"<u>", Loss::ignored},
                           {"go", Loss::counted},
                           {"ne", Loss::counted},
                           {"\n", Loss::ignored}},
                          "here"};
  const auto encoded = encode_document(document, DataFormat::messages, toy::encoder());
  std::string counted;
  for (size_t i = 0; i < encoded.ids.size(); ++i) {
    counted += encoded.counted[i] ? char(encoded.ids[i]) : '.';
  }
  EXPECT_EQ(counted, "........yo...gone.");
}

TEST(EncodeDocument, WithoutAnAnswerThereIsNothingToLearn) {
  const Document document{{{"q?", Loss::ignored}, {"", Loss::counted}}, "here"};
  EXPECT_TRUE(encode_document(document, DataFormat::prompt_completion, toy::encoder()).ids.empty());
}

// A quarter of a gigabyte of ids, almost all of them a hole in the file.
TEST(fault_E9, AFileLargerThanTheMemoryItTakes) {
  const Folder folder;
  const std::string path = folder / "large.bin";
  TokenWriter writer(path, 300, LossMask::absent);
  writer.add(std::vector<int32_t>{1, 2, 3}, {}, "d");
  writer.commit({});
  constexpr uint64_t kTokens = uint64_t{1} << 27;
  TokenHeader header;
  std::ifstream(path, std::ios::binary).read(reinterpret_cast<char*>(&header), sizeof header);
  header.tokens = kTokens;
  std::filesystem::resize_file(path, sizeof header + 2 * kTokens);
  std::ofstream(path, std::ios::binary | std::ios::app)
      .write(reinterpret_cast<const char*>(&kTokens), sizeof kTokens);
  {
    std::ifstream in(path, std::ios::binary);
    in.seekg(sizeof header);
    XXH3_state_t* state = XXH3_createState();
    XXH3_64bits_reset(state);
    std::vector<char> block(1 << 20);
    while (in.read(block.data(), std::streamsize(block.size())) || in.gcount() > 0)
      XXH3_64bits_update(state, block.data(), size_t(in.gcount()));
    header.data_checksum = XXH3_64bits_digest(state);
    XXH3_freeState(state);
  }
  header.header_checksum = checksum_of(header);
  std::fstream(path, std::ios::binary | std::ios::in | std::ios::out)
      .write(reinterpret_cast<const char*>(&header), sizeof header);
  const pid_t child = fork();
  if (child == 0) {
    try {
      _exit(TokenFile::open(path, 300)->info().tokens == kTokens ? 0 : 1);
    } catch (const Error&) {
      _exit(2);
    }
  }
  int status = 0;
  rusage usage{};
  wait4(child, &status, 0, &usage);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  EXPECT_LT(usage.ru_maxrss, 128 * 1024) << "KiB at the most";
}

TEST(TokenCache, ThreeMillionTokensReadBack) {
  const Folder folder;
  TokenWriter writer(folder / "big.bin", 49152, LossMask::absent);
  std::vector<int32_t> ids(5000);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = int32_t(i * 9);
  for (int document = 0; document < 600; ++document) writer.add(ids, {}, "d");
  writer.commit({});
  EXPECT_EQ(TokenFile::open(folder / "big.bin", 49152)->info().tokens, 3000000u);
}

}  // namespace
}  // namespace qat
