"""The compiled training step: what runs on the devices, several batches to a host call.

One replica's forward and backward pass is compiled by XLA inside `strategy.run`.
The reduction over the replicas, the check for overflow and the optimizer stand
outside of the compiled part: the whole replica step cannot be compiled once there are
two replicas. On one device they are one program, which updates the variables in place
(XLA aliases its outputs with its inputs). It has no branch: on a GPU, XLA's host thread waits
for the condition of one, and launches what follows only then.
"""

from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from cxr_data.core.tensorflow_private import take_reduced_gradients
from cxr_data.input.batch import expand_image
from cxr_train.engine.compilation_cache import align_names
from cxr_train.engine.multi_step import Batch, StepRecords, Sums, take_steps
from cxr_train.engine.totals import Totals, add, no_examples
from cxr_train.models.flops import count_flops
from cxr_train.models.parts import network_of
from cxr_train.recipe.augment import change_images, draw
from cxr_train.recipe.augmentation import Augmentation
from cxr_train.recipe.domain.fda import FourierAdaptation
from cxr_train.recipe.domain.method import DomainMethod
from cxr_train.recipe.ema import WeightAverage
from cxr_train.recipe.loss import ExampleSums, FindingsObjective, Objective
from cxr_train.recipe.loss_scale import LossScale, all_finite
from cxr_train.recipe.optimizers import ParameterGroups

Gradients = list[tf.Tensor]
# See `align_names`: the training step is two functions, and takes 1 and 2; it is traced first.
_TRAINING_NAMES = 1


class TrainStep:
    """The training step of one model under one strategy.

    Args:
      model: images float32 [B, S, S, 3] to logits float32 [B, C]; built under
        `strategy`'s scope.
      optimizer: a Keras optimizer, or `ParameterGroups`, made under the same scope. Its own
        loss scaling, clipping and gradient accumulation must be off.
      loss_scale: made under the same scope.
      strategy: where the step runs.
      compile: whether XLA compiles it.
      global_batch: examples in a training batch over all replicas; the loss is the
        mean over them, or over the labels that count in all of it.
      objective: what is minimised; plain cross-entropy of one class a picture by default.
      accumulation: into how many micro-batches a replica splits its part of the batch. Their
        gradients are summed, so that the step is that of the whole batch; BatchNorm alone sees
        micro-batches. Must divide the replica's part.
      clip_norm: the largest global norm of the reduced gradients; None for any.
      augmentation: how images are changed at random.
      seed: of the augmentation.
      average: of the weights, moved with each step that is applied.
      in_flight: how many steps may be launched before the loss of the first of them is known.
      domain: how the sources of a batch are treated, made under the same scope; None: all alike.
      adaptation: what images take from a target, before they are augmented; None for nothing.

    Attributes:
      loss_scale: as given; it counts the steps that were skipped.
      optimizers: of the model's variables, see `ParameterGroups`.
      compiled_step: a batch and its draws of the augmentation (None without) to `Sums`: the
        whole step as one program, which is what one device runs.
      traces: how often a function was traced, by name. One each is right: a second
        one means that shapes or dtypes changed, and costs another compilation.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer | ParameterGroups,
        loss_scale: LossScale,
        strategy: tf.distribute.Strategy,
        *,
        compile: bool,
        global_batch: int,
        objective: Objective | FindingsObjective | None = None,
        accumulation: int = 1,
        clip_norm: float | None = None,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        average: WeightAverage | None = None,
        in_flight: int = 1,
        domain: DomainMethod | None = None,
        adaptation: FourierAdaptation | None = None,
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self.loss_scale = loss_scale
        self._strategy = strategy
        self._global_batch = global_batch
        self._objective = objective or Objective()
        self._labels_differ = self._objective.labels_per_example is None
        self._accumulation = accumulation
        self._clip_norm = clip_norm
        self._augmentation = augmentation or Augmentation()
        self._seed = seed
        self._average = average
        self._in_flight = in_flight
        self._domain = domain
        self._adaptation = adaptation
        self._sums_of_sources = len(domain.sources.numbers) if domain and domain.learns_weights else None
        self.traces: dict[str, int] = {}
        self._pass: tuple[tf.Graph, int] | None = None
        with strategy.scope():
            optimizer.build(model.trainable_variables)
            # On the device, which must not apply a step that was launched after such a loss.
            self._bad_losses = tf.Variable(
                0,
                trainable=False,
                dtype=tf.int64,
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )
        self.optimizers = optimizer.optimizers if isinstance(optimizer, ParameterGroups) else [optimizer]
        for one in self.optimizers:
            take_reduced_gradients(one)
        if domain and domain.optimizer:
            take_reduced_gradients(domain.optimizer)
        self.retrace(compile=compile)

    def retrace(self, *, compile: bool) -> None:
        """Make the functions again, for layers that were frozen or freed since, or for another way.

        The next call traces them once.
        """
        self._variables = self._model.trainable_variables
        self._trained = [*self._variables, *(self._domain.trained if self._domain else ())]
        self._network = network_of(self._model, self._domain)
        self._compiled = compile
        self._compiled_gradients = tf.function(self._scaled_gradients, jit_compile=compile)
        self.compiled_step = tf.function(self._step_on_one_device, jit_compile=compile)
        self._run = tf.function(self._step)

    def __call__(self, iterator: Iterator[Batch], steps: int, first_step: int = 0) -> StepRecords:
        """Take `steps` training steps in one host call, and wait for them.

        Args:
          iterator: over batches of `cxr_data.input.batch`, distributed by the strategy.
          steps: at most as many as the iterator has batches left.
          first_step: the number of the first of them, from the start of the run; the
            augmentation depends on it.

        Returns:
          A record of each; fewer where a loss was not finite, and then of that step last. A step
          with such a loss leaves the weights as they were, and so does the one that was launched after it.
        """
        numbers = range(first_step, first_step + steps)
        records = take_steps(self.launch, iterator, numbers, in_flight=self._in_flight)
        if not np.isfinite(records.loss[-1]):
            self._bad_losses.assign(0)
        return records

    def launch(self, batch: Batch, number: int) -> Sums:
        """Start one step on a distributed batch; on an accelerator it goes on when this returns.

        Args:
          batch: see `__call__`.
          number: of the step, from the start of the run.
        """
        self.prepare(number)
        with tf.device("/cpu:0"):
            on_the_host = tf.constant(number, tf.int64)
        sums: Sums = self._run(batch, on_the_host)
        return sums

    def prepare(self, number: int) -> None:
        """Do on the host what comes before the step of a number, as `launch` does."""
        if self._domain:
            self._domain.begin_step(number, self._forget)

    def _forget(self) -> None:
        """Let the optimizers begin as new ones, at the present rate."""
        for variable in (variable for one in self.optimizers for variable in one.variables):
            if variable.name != "learning_rate":
                variable.value.assign(tf.zeros(variable.shape, variable.value.dtype))

    @property
    def flops_per_image(self) -> float | None:
        """Operations of forward and backward pass, see `flops`; None before the first step."""
        if self._pass is None:
            return None
        graph, images = self._pass
        return count_flops(graph) / images

    def _traced(self, name: str) -> None:
        """Count a trace: the Python code of a `tf.function` runs only while it is traced."""
        self.traces[name] = self.traces.get(name, 0) + 1
        if self._compiled:
            align_names(_TRAINING_NAMES)

    def _step(self, batch: Batch, step: tf.Tensor) -> Sums:
        self._traced("step")
        draws = None
        mixes = self._domain is not None and self._domain.mixes_early
        if self._augmentation or self._adaptation or mixes:
            # Drawn outside of the compiled part: XLA's generator gives other numbers for the same key.
            # On the device, since a copy to it would wait for the step that computes.
            with tf.device(self._strategy.extended.worker_devices[0]):
                draws = draw(self._seed, step, self._global_batch)
                for one in (self._domain if mixes else None, self._adaptation):
                    if one:
                        draws = tf.concat([draws, one.draw(self._seed, step, self._global_batch)], 1)
        # A mirrored strategy leaves the replica to update, however few there are.
        if isinstance(self._strategy, tf.distribute.OneDeviceStrategy):
            one_device: Sums = self._strategy.run(self.compiled_step, args=(batch, draws))
            return one_device
        gradients, finite, totals = self._strategy.run(self._reduced_gradients, args=(batch, draws))
        # Every replica holds the same answer and the same sums; the condition must stand outside
        # of `run`, since the optimizer leaves the replica to update.
        finite = self._strategy.experimental_local_results(finite)[0]
        sums, of_sources = tf.nest.map_structure(
            lambda value: self._strategy.experimental_local_results(value)[0], totals
        )
        counts = self._counts(sums.loss)
        self._apply_if(
            tf.logical_and(finite, counts), lambda: self._strategy.run(self._apply, args=(gradients,))
        )
        self.loss_scale.update(finite, counts)
        self._move(of_sources, tf.logical_and(finite, counts))
        return sums

    def _step_on_one_device(self, batch: Batch, draws: tf.Tensor | None) -> Sums:
        labels = self._labels_of_sources(batch)
        gradients, totals = self._scaled_gradients(batch, draws, labels)
        gradients, sums, of_sources = self._means(gradients, totals, labels)
        finite = all_finite([*gradients, sums.loss])
        counts = self._counts(sums.loss)
        apply_if = self._apply_selected_if if self._compiled else self._apply_if
        apply_if(tf.logical_and(finite, counts), lambda: self._apply(gradients))
        self.loss_scale.update(finite, counts)
        self._move(of_sources, tf.logical_and(finite, counts))
        return sums

    def _labels_of_sources(self, batch: Batch) -> tf.Tensor | None:
        """Count a replica's labels of each source, float32 [D]; None where the loss does not need them."""
        return self._domain.labels_of_sources(batch) if self._domain and self._domain.reweighs else None

    def _move(self, losses: tf.Tensor | None, applied: tf.Tensor) -> None:
        if self._domain and losses is not None:
            self._domain.move(losses, applied)

    def _counts(self, loss: tf.Tensor) -> tf.Tensor:
        """Return bool []: no loss before this step's was not finite; and take note of this one."""
        counts = tf.equal(self._bad_losses, 0)
        self._bad_losses.assign_add(tf.cast(tf.logical_not(tf.math.is_finite(loss)), tf.int64))
        return counts

    def _reduced_gradients(
        self, batch: Batch, draws: tf.Tensor | None
    ) -> tuple[Gradients, tf.Tensor, tuple[Sums, tf.Tensor | None]]:
        """Return one replica's view of the summed, unscaled gradients, whether they and the loss are finite,
        and sums: those of the step, and the losses of the sources, see `_means`.
        """
        replica = tf.distribute.get_replica_context()
        if draws is not None:
            parts = tf.reshape(draws, [replica.num_replicas_in_sync, -1, draws.shape[1]])
            draws = parts[replica.replica_id_in_sync_group]
        labels = self._labels_of_sources(batch)
        if labels is not None:  # of all replicas, before the losses that are divided by them
            labels = replica.all_reduce(tf.distribute.ReduceOp.SUM, labels)
        gradients, totals = self._compiled_gradients(batch, draws, labels)
        gradients, totals = replica.all_reduce(tf.distribute.ReduceOp.SUM, (gradients, totals))
        gradients, sums, of_sources = self._means(gradients, totals, labels)
        return gradients, all_finite([*gradients, sums.loss]), (sums, of_sources)

    def _means(
        self, gradients: Gradients, totals: Totals, labels_of_sources: tf.Tensor | None
    ) -> tuple[Gradients, Sums, tf.Tensor | None]:
        """Return the gradients of the mean loss of the global batch, unscaled, and what it comes to.

        Where examples have different numbers of labels, the mean is over all labels of the batch.

        Args:
          labels_of_sources: float32 [D], of the global batch; None where they are not told apart, and the
            gradients are of a sum over all labels.

        Returns:
          The gradients, the sums, and the mean loss of each source, float32 [D], if a method learns from it.
        """
        gradients = self.loss_scale.unscale(gradients)
        if self._labels_differ and labels_of_sources is None:
            labels = tf.maximum(totals.labels, 1.0)
            gradients = [gradient * (self._global_batch / labels) for gradient in gradients]
        of_sources = totals.mean_of_sources(labels_of_sources) if self._sums_of_sources else None
        return gradients, totals.sums(labels_differ=self._labels_differ), of_sources

    def _scaled_gradients(
        self, batch: Batch, draws: tf.Tensor | None, labels_of_sources: tf.Tensor | None
    ) -> tuple[Gradients, Totals]:
        """Return one replica's gradients of the scaled loss, not yet reduced, and its totals.

        Args:
          batch: the replica's part of the global batch.
          draws: of the augmentation, for each of its images; None without.
          labels_of_sources: see `_means`.
        """
        self._traced("gradients")
        if draws is not None:
            batch = {**batch, "draws": draws}
        if self._accumulation == 1:
            return self._gradients_of(batch, labels_of_sources)
        gradients = [tf.zeros(variable.shape, variable.dtype) for variable in self._trained]
        totals = no_examples(self._sums_of_sources)
        micro_batches = {key: self._split(value) for key, value in batch.items()}
        # A loop in the graph: the network is compiled once, and the activations of one
        # micro-batch are freed before the next.
        for number in tf.range(self._accumulation):
            part, part_totals = self._gradients_of(
                {key: value[number] for key, value in micro_batches.items()}, labels_of_sources
            )
            gradients = [total + gradient for total, gradient in zip(gradients, part, strict=True)]
            totals = add(totals, part_totals)
        return gradients, totals

    def _split(self, value: tf.Tensor) -> tf.Tensor:
        """Return [B, ...] -> [accumulation, B / accumulation, ...], in order."""
        return tf.reshape(value, [self._accumulation, -1, *value.shape[1:]])

    def _gradients_of(self, batch: Batch, labels_of_sources: tf.Tensor | None) -> tuple[Gradients, Totals]:
        """Gradient of the scaled loss of a batch, as its share of the global batch."""
        images = batch["image"]
        self._pass = tf.compat.v1.get_default_graph(), images.shape[0]
        if self._adaptation:
            images = self._adaptation.change(images, batch["draws"][:, -1])
        if self._augmentation:
            images = change_images(self._augmentation, images, batch["draws"])
        values = [variable.value for variable in self._trained]
        # Only what is trained is watched: frozen layers below it are no part of the backward pass.
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            features, logits = self._network(expand_image(images), batch.get("draws"))
            of_examples = self._objective(batch["label"], logits, batch.get("index"))
            of_batch = ExampleSums(*(tf.reduce_sum(value * batch["weight"]) for value in of_examples))
            # Divided by the global batch, so that the sum over replicas is the mean.
            loss = of_batch.loss / self._global_batch
            if self._domain:
                part = self._domain.part(batch, of_examples, logits, features)
                if labels_of_sources is not None:
                    loss = self._domain.loss(part, self._domain.rates(labels_of_sources))
                penalty = self._domain.penalty(part)  # AutoGraph reads no assignment within a condition
                if penalty is not None:
                    loss += penalty * (images.shape[0] / self._global_batch)
            scaled = loss * self.loss_scale.scale
        gradients = tape.gradient(scaled, values)
        totals = Totals(examples=tf.reduce_sum(batch["weight"]), **of_batch._asdict())
        if self._sums_of_sources:
            of_sources = tf.linalg.matvec(part.members, of_examples.loss, transpose_a=True)
            totals = totals._replace(of_sources=of_sources)
        return gradients, totals

    def _apply(self, gradients: Gradients) -> None:
        """Clip and applies reduced, finite gradients."""
        gradients, of_method = gradients[: len(self._variables)], gradients[len(self._variables) :]
        if self._clip_norm is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, self._clip_norm)
        self._optimizer.apply(gradients, self._variables)
        if self._domain and self._domain.optimizer:
            self._domain.optimizer.apply(of_method, self._domain.trained)
        if self._average:
            self._average.update(self._optimizer.iterations)

    def _apply_if(self, condition: tf.Tensor, apply: Callable[[], object]) -> None:
        def branch() -> tf.Tensor:
            apply()
            return condition

        tf.cond(condition, branch, lambda: condition)

    def _apply_selected_if(self, condition: tf.Tensor, apply: Callable[[], object]) -> None:
        """Do what `_apply_if` does, without a branch; XLA makes the selection a part of the update."""
        state = [variable.value for variable in (*self._variables, *self._optimizer.variables)]
        state += self._average.averages if self._average else []
        state += self._domain.state if self._domain and self._domain.optimizer else []
        before = [variable.read_value() for variable in state]
        apply()
        for variable, value in zip(state, before, strict=True):
            variable.assign(tf.where(condition, variable.read_value(), value))
