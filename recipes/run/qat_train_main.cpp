// qat-train RECIPE.yaml: trains, quantizes, measures and exports a model.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "recipes/run/command.h"
#include "recipes/run/report/report.h"
#include "recipes/run/run_facts.h"
#include "recipes/run/train_run.h"

int main(int argc, char** argv) {
  CLI::App app{
      "Quantization-aware training of a language model, from a recipe to a deployable model.",
      "qat-train"};
  std::string path, out, resume;
  std::vector<std::string> sets;
  std::vector<std::string> reported;
  bool dry_run = false, help_recipe = false;
  qat::PaperMachines machines;
  app.add_option("recipe", path, "the recipe, a YAML file (see recipes/README.md)");
  app.add_option("--set", sets,
                 "overrides a key of the recipe, e.g. --set train.steps=20 (the value is YAML)")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  app.add_option("--out", out, "run directory; overrides the key `out`")->type_name("DIR");
  app.add_option("--resume", resume,
                 "auto (default): go on from the newest whole checkpoint; never: start over; "
                 "auto-or-scratch; or a checkpoint's directory");
  app.add_flag("--dry-run", dry_run,
               "print what the run would do and the memory it needs; touches no file");
  app.add_option("--ranks", machines.ranks, "with --dry-run: plan for so many ranks")
      ->check(CLI::Range(1, 65536));
  app.add_option("--gpu", machines.gpu,
                 "with --dry-run: predict the step's time on a100, h100, h200 or b200");
  app.add_option("--link", machines.link, "between nodes, for --gpu: nvlink (default) or ib");
  app.add_option("--report", reported,
                 "instead of a run: write the report of a finished run again (RUN/report.html), or "
                 "one that compares several (comparison.html, or the file --out)")
      ->type_name("RUN");
  app.add_flag("--help-recipe", help_recipe, "print every key of a recipe");
  app.footer(
      "Exit codes: 0 done, 2 refused input, 3 cannot write, 4 diverged, 5 directory in use,\n"
      "6 a rank died, hung or disagreed, 7 export not verified, 85 stopped early (run again to "
      "continue).");
  return qat::run_command_among_ranks(app, argc, argv, [&](qat::RunHealth& health) {
    const bool leads = health.ranks().rank() == 0;
    if (help_recipe) {
      if (!leads) return qat::Exit::ok;
      std::fputs(qat::recipe::recipe_help().c_str(), stdout);
      return qat::Exit::ok;
    }
    if (!reported.empty()) {
      if (!leads) return qat::Exit::ok;
      if (!path.empty() || !sets.empty() || !resume.empty() || dry_run)
        qat::refuse("--report: expected run directories and --out alone, got more");
      qat::write_output(qat::report::report_command(reported, out) + "\n");
      return qat::Exit::ok;
    }
    if (path.empty()) qat::refuse("no recipe given; try: qat-train recipes/quickstart.yaml");
    std::vector<qat::recipe::RecipeOverride> overrides;
    for (const std::string& set : sets) overrides.push_back(qat::recipe::set_option(set));
    if (!out.empty()) overrides.push_back(qat::recipe::literal_option("--out", "out", out));
    if (!resume.empty())
      overrides.push_back(qat::recipe::literal_option("--resume", "resume", resume));
    const qat::recipe::Recipe recipe = qat::recipe::load_recipe(path, overrides);
    if (machines.ranks > 1 || !machines.gpu.empty() || !machines.link.empty()) {
      if (!dry_run) qat::refuse("--ranks, --gpu and --link plan a run; add --dry-run");
      if (leads) qat::plan_on_paper(recipe, machines);
      return qat::Exit::ok;
    }
    return qat::train(recipe, dry_run ? qat::DryRun::yes : qat::DryRun::no,
                      qat::command_text(argc, argv), health);
  });
}
