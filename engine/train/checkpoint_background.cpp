// Saving beside training. The ranks agree between the stages of a save on the thread that trains,
// at the end of a step: the thread that writes never waits for another rank.
#include "engine/core/error.h"
#include "engine/core/seconds_of.h"
#include "engine/train/background_thread.h"
#include "engine/train/checkpoint.h"
#include "engine/train/checkpoint_stages.h"
#include "engine/train/snapshot.h"

namespace qat {

void CheckpointWriter::reserve(std::span<const CheckpointTensor> tensors) {
  if (!snapshot_) snapshot_ = std::make_unique<Snapshot>();
  if (!thread_) thread_ = std::make_unique<BackgroundThread>();
  snapshot_->reserve(tensors);
}

void CheckpointWriter::begin(int64_t step, const nlohmann::json& state,
                             std::span<const CheckpointTensor> tensors) {
  if (save_) internal_error("step {} is saved while step {} is on its way", step, save_->step);
  const double paused = seconds_of([&] {
    reserve(tensors);
    save_ = std::make_unique<Save>(directory_, options_.run_id, step, state,
                                   snapshot_->lay_out(tensors));
    if (options_.copy == SnapshotCopy::at_once) snapshot_->copy();
    go_on_in_background();
    // The others cannot write before the directory is there.
    if (options_.ranks && options_.ranks->size() > 1) {
      thread_->wait();
      if (agree(*save_)) {
        save_->next_stage();
        go_on_in_background();
      } else {
        snapshot_->cancel();
      }
    }
  });
  save_->result.paused = paused;
}

// One process has nobody to agree with: it goes through all stages at once.
void CheckpointWriter::go_on_in_background() {
  const bool alone = !options_.ranks || options_.ranks->size() == 1;
  thread_->start([this, alone, &save = *save_] {
    for (;;) {
      if (save.stage == SaveStage::write && options_.copy == SnapshotCopy::beside_training)
        snapshot_->copy();
      attempt(save);
      if (!alone || !save.mine.sound() || save.stage == SaveStage::commit) break;
      save.parts = {save.mine};
      save.next_stage();
    }
    if (!save.mine.sound()) snapshot_->cancel();
  });
}

void CheckpointWriter::wait_until_copied() {
  if (save_) save_->result.paused += seconds_of([this] { snapshot_->wait(); });
}

int64_t CheckpointWriter::on_its_way() const {
  return save_ ? save_->step : -1;
}

bool CheckpointWriter::busy() const {
  return save_ && thread_->busy();
}

std::optional<SaveResult> CheckpointWriter::advance() {
  if (!save_) return std::nullopt;
  bool going_on = false;
  save_->result.paused += seconds_of([&] {
    thread_->wait();
    going_on = agree(*save_) && save_->stage != SaveStage::commit;
    if (!going_on) return;
    save_->next_stage();
    go_on_in_background();
  });
  if (going_on) return std::nullopt;
  const std::unique_ptr<Save> ended = std::move(save_);
  return end(*ended);
}

SaveResult CheckpointWriter::finish() {
  for (;;)
    if (std::optional<SaveResult> result = advance()) return *result;
}

}  // namespace qat
