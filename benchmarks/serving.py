"""Load on a server that runs: throughput by number of clients, and every answer compared.

Each of a set of requests is asked alone first; then so many clients ask them over and over, in
streams and whole, and each answer has to be the one that the request had alone. Clients that leave
in mid-stream must leave no slot taken.

    t5x-lite serve runs/quickstart --port=8000
    python -m benchmarks.serving http://127.0.0.1:8000 --clients=64 --seconds=120
"""

import argparse
import asyncio
import re
import time

import httpx
import openai

PROMPTS = ('import ', 'def f(', 'class A', 'for i in ', 'return ', 'if x:\n  ', '"""', 'try:\n')
NEW = 48


def requests(model):
  """Unlike settings on unlike prompts."""
  settings = (dict(temperature=0), dict(temperature=1.0), dict(temperature=0.7, top_p=0.9),
              dict(temperature=0.9, frequency_penalty=0.5))
  for n in range(32):
    yield dict(model=model, prompt=PROMPTS[n % 8] * (1 + n // 8), seed=n,
               max_tokens=8 + 5 * (n % 9), **settings[n % 4])


async def answer(client, request, stream=False):
  if not stream:
    return (await client.completions.create(**request)).choices[0].text
  text = ''
  async for event in await client.completions.create(**request, stream=True):
    text += event.choices[0].text
  return text


async def throughput(client, model, clients, seconds=10):
  """Tokens per second of so many clients, each of which asks without a pause."""
  until, tokens = time.monotonic() + seconds, 0

  async def ask(n):
    nonlocal tokens
    while time.monotonic() < until:
      got = await client.completions.create(
          model=model, prompt=PROMPTS[n % 8], max_tokens=NEW, temperature=1.0, seed=n,
          logit_bias={'1': -100})
      tokens += got.usage.completion_tokens

  began = time.monotonic()
  await asyncio.gather(*map(ask, range(clients)))
  return tokens / (time.monotonic() - began)


async def endure(client, model, clients, seconds):
  """(answers, wrong ones, errors) of so many clients in so many seconds."""
  asked = list(requests(model))
  alone = [await answer(client, request) for request in asked]
  until, counts = time.monotonic() + seconds, [0, 0, 0]

  async def ask(n):
    while time.monotonic() < until:
      n = (n * 7 + 3) % len(asked)
      try:
        wrong = await answer(client, asked[n], stream=counts[0] % 2 == 0) != alone[n]
      except openai.OpenAIError as error:
        print(error)
        counts[2] += 1
        continue
      counts[0] += 1
      counts[1] += wrong

  await asyncio.gather(*map(ask, range(clients)))
  return counts


async def leave(client, model, clients):
  """Clients that leave after their first event; how long until no slot is taken."""
  async def ask(n):
    stream = await client.completions.create(
        model=model, prompt=PROMPTS[n % 8], max_tokens=200, temperature=1.0, stream=True,
        logit_bias={'1': -100})
    async for _ in stream:
      break
    await stream.close()

  await asyncio.gather(*map(ask, range(clients)))
  began = time.monotonic()
  async with httpx.AsyncClient(base_url=str(client.base_url).removesuffix('/v1/')) as plain:
    while True:
      text = (await plain.get('/metrics')).text
      running, queued = (float(re.search(rf'^t5x_lite_{name} (.*)$', text, re.M)[1])
                         for name in ('running_slots', 'queued_requests'))
      if not running and not queued:
        return time.monotonic() - began
      await asyncio.sleep(0.01)


async def main(args):
  client = openai.AsyncOpenAI(base_url=f'{args.url}/v1', api_key=args.key, max_retries=0,
                              timeout=300, http_client=openai.DefaultAsyncHttpxClient(
                                  limits=httpx.Limits(max_connections=None)))
  model = (await client.models.list()).data[0].id
  speeds = {n: await throughput(client, model, n) for n in (1, 8, 32)}
  for n, speed in speeds.items():
    print(f'{n:3} clients: {speed:8,.0f} tokens/s, {speed / speeds[1]:.1f} times that of one')
  answers, wrong, errors = await endure(client, model, args.clients, args.seconds)
  print(f'{args.clients} clients, {args.seconds} s: {answers} answers, {wrong} unlike those alone, '
        f'{errors} errors')
  print(f'100 clients left in mid-stream: all slots free after '
        f'{await leave(client, model, 100):.2f} s')


if __name__ == '__main__':
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('url')
  parser.add_argument('--clients', type=int, default=64)
  parser.add_argument('--seconds', type=int, default=120)
  parser.add_argument('--key', default='none')
  asyncio.run(main(parser.parse_args()))
