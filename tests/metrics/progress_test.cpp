// The progress line: what it says, how it fits, and how it behaves on and off a terminal.
#include "engine/train/progress.h"

#include <gtest/gtest.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>

namespace qat {
namespace {

Progress at_step(int64_t step, int64_t total) {
  Progress progress;
  progress.step = step;
  progress.total = total;
  progress.loss = 2.34567;
  progress.kl = 0.01234;
  progress.learning_rate = 2e-5;
  progress.enabled_layers = 12;
  progress.layers = 30;
  progress.tokens_per_second = 807.3;
  progress.percent_of_peak = 83.4;
  progress.step_seconds = 2;
  return progress;
}

TEST(ProgressText, SaysEverything) {
  EXPECT_EQ(
      progress_text(at_step(12, 300), 576, 120),
      " 12/300  loss 2.3457  kl 0.01234  lr 2.00e-05  q 12/30  807 tok/s  83% peak  9m36s left");
}

TEST(ProgressText, FitsAnyWidth) {
  for (size_t columns = 1; columns <= 120; ++columns) {
    const std::string line = progress_text(at_step(123456, 1000000), 3e6, columns);
    EXPECT_LE(line.size(), columns) << line;
  }
  const std::string line = progress_text(at_step(12, 300), 576, 79);
  EXPECT_EQ(line.find("lr"), std::string::npos) << "the learning rate is the first to go";
  EXPECT_NE(line.find("9m36s left"), std::string::npos);
}

TEST(ProgressText, LeavesOutWhatIsUnknown) {
  Progress progress = at_step(1, 10);
  progress.kl.reset();
  progress.percent_of_peak.reset();
  progress.layers = 0;
  progress.tokens_per_second = 12345;
  EXPECT_EQ(progress_text(progress, -1, 80), " 1/10  loss 2.3457  lr 2.00e-05  12.3k tok/s");
}

TEST(DurationText, ForPeople) {
  EXPECT_EQ(duration_text(0.4), "0s");
  EXPECT_EQ(duration_text(59.4), "59s");
  EXPECT_EQ(duration_text(59.6), "1m00s");
  EXPECT_EQ(duration_text(3661), "1h01m");
  EXPECT_EQ(duration_text(90000), "1d01h");
  EXPECT_EQ(duration_text(-5), "0s") << "no negative durations";
}

TEST(ProgressLine, PlainLinesEveryFewSteps) {
  std::FILE* out = std::tmpfile();
  {
    ProgressLine line(out, 10);
    for (int64_t step = 1; step <= 25; ++step) line.update(at_step(step, 25));
  }
  std::rewind(out);
  std::string text(4096, '\0');
  text.resize(std::fread(text.data(), 1, text.size(), out));
  std::fclose(out);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 4) << text;  // 1, 10, 20, 25
  EXPECT_EQ(text.find('\r'), std::string::npos);
  EXPECT_NE(text.find("20/25"), std::string::npos);
  EXPECT_NE(text.find("10s left"), std::string::npos) << "five steps of two seconds";
}

TEST(ProgressLine, OneLineThatRewritesItselfOnATerminal) {
  int master, slave;
  winsize size{24, 60, 0, 0};
  ASSERT_EQ(openpty(&master, &slave, nullptr, nullptr, &size), 0);
  std::FILE* out = fdopen(slave, "w");
  {
    ProgressLine line(out, 10);
    line.update(at_step(1, 25));
    line.clear();
    line.update(at_step(2, 25));
    line.update(at_step(3, 25));  // too soon to be drawn
    line.update(at_step(25, 25));
  }
  tcdrain(slave);
  std::string text;
  char piece[256];
  while (text.find('\n') == std::string::npos) {  // a terminal may hand over its text in pieces
    const ssize_t got = read(master, piece, sizeof piece);
    ASSERT_GT(got, 0) << text;
    text.append(piece, size_t(got));
  }
  std::fclose(out);
  close(master);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1) << text;
  EXPECT_NE(text.find("\r 1/25"), std::string::npos);
  EXPECT_NE(text.find("\r\x1b[K\r 2/25"), std::string::npos);
  EXPECT_EQ(text.find(" 3/25"), std::string::npos);
  EXPECT_NE(text.find("\r25/25"), std::string::npos);
  const size_t begin = text.find("25/25"), end = text.find("\x1b", begin);
  EXPECT_LE(end - begin, 59u) << "the window's width, less one";
}

TEST(ProgressLine, AClosedStreamIsNoFailure) {
  std::signal(SIGPIPE, SIG_IGN);
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  close(ends[0]);
  std::FILE* out = fdopen(ends[1], "w");
  {
    ProgressLine line(out, 1);
    line.update(at_step(1, 2));
    line.update(at_step(2, 2));
  }
  std::fclose(out);
}

}  // namespace
}  // namespace qat
