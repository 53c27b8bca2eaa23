// What counts as the answer of a solution: the results of Python's re with the harness's patterns.
#include "models/evaluation/chain.h"

#include <gtest/gtest.h>

namespace qat {
namespace {

struct Case {
  const char *text, *strict, *flexible;
};

TEST(Chain, AnswersAreThoseOfTheHarnessesPatterns) {
  const Case cases[] = {
      {"so 18 in all\n#### 18", "18", "18"},
      {"#### -3", "-3", "-3"},
      {"#### 1,234.", "1234", "1234"},
      {"#### $18", "", "18"},
      {"the answer is $5.50.", "", "5.50"},
      {"cost 7", "", "7"},
      {"a-7 b", "", "-7"},
      {"- 7", "", "7"},
      {"9 - 8", "", "8"},
      {"x=3, y=-12,", "", "-12"},
      {"no number", "", ""},
      {"#### \nthen #### 4", "4", "4"},
      {"#### 1\n#### 2", "1", "2"},
      {"1.5.", "", "1.5"},
      {"$", "", ""},
      {"..", "", "."},
      {"-", "", ""},
      {"3-4", "", "-4"},
      {"#### 12 apples, 13", "12", "13"},
      {"--5", "", "-5"},
      {"$1,000,000 and 2 more", "", "2"},
  };
  for (const Case& c : cases) {
    EXPECT_EQ(strict_answer(c.text), c.strict) << c.text;
    EXPECT_EQ(flexible_answer(c.text), c.flexible) << c.text;
  }
}

TEST(Chain, PromptHasTheExamplesBeforeTheQuestion) {
  TaskRow example, row;
  example.question = "1+1?";
  example.answer = "Two.\n#### 2";
  row.question = "2+2?";
  EXPECT_EQ(chain_prompt({example}, row),
            "Question: 1+1?\nAnswer: Two.\n#### 2\n\nQuestion: 2+2?\nAnswer:");
  EXPECT_EQ(chain_prompt({}, row), "Question: 2+2?\nAnswer:");
}

TEST(Chain, EndsAtTheNextQuestionOrTurn) {
  EXPECT_EQ(chain_end("4 apples\n\nQuestion: more"), 10u);
  EXPECT_EQ(chain_end("4<|im_end|> Question:"), 1u);
  EXPECT_EQ(chain_end("Question"), std::string::npos);
}

}  // namespace
}  // namespace qat
