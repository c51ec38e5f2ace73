// Twins and direct methods, device and back end in one process: both official
// SDKs, unmodified. Usage: node twin.js HOST DEVICE-ID FOLDER CA-FILE OWNER
'use strict';
const assert = require('assert');
const fs = require('fs');
const path = require('path');
const { Client } = require('azure-iot-device');
const { Mqtt } = require('azure-iot-device-mqtt');
const { Registry, Client: ServiceClient } = require('azure-iothub');

const [host, id, folder, ca, owner] = process.argv.slice(2);
const registry = Registry.fromConnectionString(owner);
const service = ServiceClient.fromConnectionString(owner);

async function device() {
  const client = Client.fromConnectionString(`HostName=${host};DeviceId=${id};x509=true`, Mqtt);
  await client.setOptions({
    cert: fs.readFileSync(path.join(folder, 'chain.pem'), 'utf8'),
    key: fs.readFileSync(path.join(folder, 'device.key'), 'utf8'),
    ca,
  });
  await client.open();
  return client;
}

async function refused(promise, name) {
  try {
    await promise;
  } catch (err) {
    assert.strictEqual(err.name, name, `${err.name}: ${err.message}`);
    return err;
  }
  return assert.fail(`expected ${name}`);
}

const report = (twin, patch) => new Promise((done, fail) => {
  twin.properties.reported.update(patch, (err) => (err ? fail(err) : done()));
});

// until waits for something that another party does; the test's time limit is the end of patience.
async function until(what) {
  while (!what()) await new Promise((done) => { setTimeout(done, 5); });
}

const call = (methodName, payload, more) => service.invokeDeviceMethod(id, { methodName, payload, responseTimeoutInSeconds: 60, ...more })
  .then((answer) => answer.result);

async function main() {
  let client = await device();

  // The device reads its twin and reports; the back end reads it.
  let twin = await client.getTwin();
  assert.strictEqual(twin.properties.desired.$version, 1);
  await report(twin, { firmware: { version: '1.2', slots: [1, 2, { spare: true }] }, temperature: 21.5, gone: 'soon' });
  await report(twin, { gone: null, firmware: { version: '1.3' } });
  let seen = (await registry.getTwin(id)).responseBody;
  assert.deepStrictEqual(seen.properties.reported.firmware, { version: '1.3', slots: [1, 2, { spare: true }] });
  assert.strictEqual(seen.properties.reported.gone, undefined);
  assert.strictEqual(seen.properties.reported.$version, 3);
  assert.ok(seen.properties.reported.$metadata.firmware.version.$lastUpdated);
  assert.strictEqual(seen.connectionState, 'Connected');
  assert.strictEqual(seen.authenticationType, 'certificateAuthority');
  console.log('ok reported');

  // What cannot be kept is refused, and the device is told.
  assert.match((await refused(report(twin, { 'a.b': 1 }), 'Error')).message, /reported cannot be kept/);
  assert.match((await refused(report(twin, { big: 'x'.repeat(5000) }), 'Error')).message, /big cannot be kept/);
  console.log('ok reported refusals');

  // A desired change reaches a device that listens, at once.
  const heard = [];
  twin.on('properties.desired', (delta) => heard.push(delta));
  await until(() => heard.length === 1); // what is there already
  const patched = (await registry.updateTwin(id, { tags: { site: 'Augsburg' }, properties: { desired: { interval: 30, mode: { fast: true, quiet: null } } } }, seen.etag)).responseBody;
  assert.strictEqual(patched.tags.site, 'Augsburg');
  assert.notStrictEqual(patched.etag, seen.etag);
  await until(() => heard.length === 2);
  assert.strictEqual(heard[1].interval, 30);
  assert.strictEqual(heard[1].mode.fast, true);
  assert.strictEqual(heard[1].$version, 2);
  assert.strictEqual(twin.properties.desired.interval, 30);
  console.log('ok desired while connected');

  // Etags: a stale one is refused, * is anything.
  await refused(registry.updateTwin(id, { tags: { site: 'Ulm' } }, seen.etag), 'InvalidEtagError');
  await registry.updateTwin(id, { tags: { site: null } }, '*');
  assert.strictEqual((await registry.getTwin(id)).responseBody.tags.site, undefined);
  await refused(registry.getTwin('nobody'), 'DeviceNotFoundError');
  await refused(registry.updateTwin(id, { properties: { desired: { $bad: 1 } } }, '*'), 'ArgumentError');
  console.log('ok etags');

  // Methods: every kind of payload there and back, the device's own status.
  client.onDeviceMethod('echo', (request, response) => response.send(200, request.payload));
  client.onDeviceMethod('refuse', (request, response) => response.send(-7, 'not today'));
  client.onDeviceMethod('silent', () => {});
  client.onDeviceMethod('void', (request, response) => response.send(204));
  for (const payload of [{ a: [1, { b: 'ä' }] }, [1, 'two', null], 'text', null, 42, true]) {
    assert.deepStrictEqual(await call('echo', payload, { connectTimeoutInSeconds: 60 }), { status: 200, payload });
  }
  assert.deepStrictEqual(await call('echo', undefined), { status: 200, payload: null });
  assert.deepStrictEqual(await call('refuse', {}), { status: -7, payload: 'not today' });
  assert.deepStrictEqual(await call('void', {}), { status: 204, payload: null });
  const answers = await Promise.all([...Array(20).keys()].map((n) => call('echo', n)));
  assert.deepStrictEqual(answers.map((a) => a.payload), [...Array(20).keys()]);
  const large = 'x'.repeat(100000);
  assert.strictEqual((await call('echo', large)).payload, large);
  console.log('ok methods');

  // No answer in time. The SDK gives up half a second after the hub has said so: on a
  // busy machine that may be before it hears it.
  for (let tries = 1, told = ''; told !== 'GatewayTimeoutError'; tries++) {
    assert.ok(tries <= 5, told);
    const began = Date.now();
    told = await call('silent', {}, { responseTimeoutInSeconds: 5 }).then(() => 'an answer', (err) => err.name);
    assert.notStrictEqual(told, 'an answer');
    const took = Date.now() - began;
    assert.ok(told !== 'GatewayTimeoutError' || took > 4000 && took < 25000, took); // 30 s are the default
  }
  console.log('ok method time-out');

  // Away: a method is refused, a desired change waits to be read.
  await client.close();
  while ((await registry.getTwin(id)).responseBody.connectionState !== 'Disconnected');
  const offline = await refused(call('echo', {}), 'Error');
  assert.match(JSON.stringify(offline.responseBody || offline.message), /404103/);
  await registry.updateTwin(id, { properties: { desired: { interval: 60, mode: null } } }, '*');
  client = await device();
  twin = await client.getTwin();
  assert.deepStrictEqual([twin.properties.desired.interval, twin.properties.desired.mode, twin.properties.desired.$version], [60, undefined, 3]);
  assert.strictEqual(twin.properties.reported.temperature, 21.5);
  client.onDeviceMethod('echo', (request, response) => response.send(200, request.payload));
  // Its stored session has listened since it was let in, the SDK does once it has its
  // handler: a call that comes in between is lost.
  let back;
  for (let n = 0; !back; n++) {
    back = await call('echo', 'welcome back', { connectTimeoutInSeconds: 120, responseTimeoutInSeconds: 5 }).catch((err) => {
      if (n === 9) throw err;
    });
  }
  assert.deepStrictEqual(back, { status: 200, payload: 'welcome back' });
  await client.close();
  console.log('ok away and back');

  // Modules.
  await registry.addModule({ deviceId: id, moduleId: 'm' });
  await refused(registry.addModule({ deviceId: id, moduleId: 'm' }), 'DeviceAlreadyExistsError');
  assert.deepStrictEqual((await registry.getModulesOnDevice(id)).responseBody.map((m) => m.moduleId), ['m']);
  const module = (await registry.updateModuleTwin(id, 'm', { properties: { desired: { a: 1 } } }, '*')).responseBody;
  assert.strictEqual(module.properties.desired.a, 1);
  assert.strictEqual((await registry.getModuleTwin(id, 'm')).responseBody.version, 3);
  await registry.removeModule(id, 'm');
  console.log('ok modules');
}

main().then(() => process.exit(0), (err) => {
  console.log(err.stack || String(err));
  process.exit(1);
});
